"""A folder that holds what the guides name, all of it small, and how the guides' own calls are made small."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 8  # pixels of an image, which the networks of tiny.py take

# In place of what the guides name: a network of some hundred weights, in place of one whose weights a hub has; the one
# that comes along and its digits, in place of what the demo leaves behind after minutes.
INSTEAD = {
    "timm:resnet18.a1_in1k": "tiny:plain",
    "(224, 224)": f"({SIZE}, {SIZE})",
    "temper-demo/epsilon-scheduling": "bundled",
    "mnist-5k": "digits",
}

# Options that make a call small, by command: in place of the guide's value, or added to what it says.
SMALLER = {
    "finetune": {"--epochs": "1", "--batch-size": "16", "--evaluation.points": "1"},
    "diagnose": {"--epochs": "1", "--images": "32"},
    "evaluate": {"--suite": "apgd"},
}
# The same for options that only some calls have. At the guides' radius too few decisions of so small a network are
# brittle for a detector.
WHERE_GIVEN = {
    "finetune": {"--attack.steps": "1", "--model.image-size": "32", "--devices": "1", "--data.classes": "5"},
    "margins": {"--threat": "Linf:8/255"},
}

SPEC = """
backbones: {small: {name: "tiny:plain", image_size: 8, tier: small}}
datasets: {photos: {train: photos, augmentation: none}}
objectives: [at]
schedules: [fixed, hinge]
protocols: {full-1: {protocol: {name: full}, epochs: 1}}
seeds: [0]
finetune: {eps: 4/255, attack: {name: pgd, steps: 1}, batch_size: 32}
measure: {suite: apgd, points: 1, tau: 0, limit: 12}
"""

MODULES = """
import torch
import tiny

class Noisy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = tiny.plain(4)

    def forward(self, x):
        return self.network(x + 0.02 * torch.randn_like(x))

def noisy():
    torch.manual_seed(0)
    return Noisy().eval()
"""


def smaller(words: Sequence[str]) -> list[str]:
    """A call of ``temper`` that does the same to less."""
    command = words[0]
    given = [INSTEAD.get(word, word) for word in words]
    for option, value in (WHERE_GIVEN.get(command, {}) | SMALLER.get(command, {})).items():
        if option in given:
            given[given.index(option) + 1] = value
        elif option in SMALLER.get(command, {}):
            given += [option, value]
    return given


def settle(folder: Path) -> None:
    """Put into a folder what the README's calls name."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 24)):
        for label, name in enumerate(("bird", "cat", "dog", "fish")):
            _images(folder / f"photos/{part}/{name}", count, label, rng)
    for place in ("new-photos", "photos/new", "uploads"):
        _images(folder / place, 3, 0, rng)
    (folder / "spec.yaml").write_text(SPEC)
    _images(folder, 1, 1, rng, "cat")


def settle_more(folder: Path) -> None:
    """And what the other guides name; ``theirs.npz`` holds what anyone might have found."""
    rng = np.random.default_rng(1)
    (folder / "defences.py").write_text(MODULES)
    _worked_example(folder, rng)
    images = np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "photos/test").rglob("*.jpg"))])
    moved = images / 255 + rng.uniform(-4 / 255, 4 / 255, images.shape)
    np.savez(folder / "theirs.npz", images=moved.clip(0, 1).astype(np.float32))


def _images(folder: Path, count: int, label: int, rng: np.random.Generator, name: str = "image") -> None:
    """Noise around a grey of the class's own, near enough to the others' that decisions are easily changed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = rng.normal(110 + 12 * label, 30, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / (f"{name}{number}.jpg" if count > 1 else f"{name}.jpg"))


def _worked_example(folder: Path, rng: np.random.Generator) -> None:
    """Weights of the MobileNet and images of the classes that docs/finetuning.md's example is about; random ones."""
    import timm
    from safetensors.torch import save_file

    network = timm.create_model("mobilenetv2_100", pad_type="same")
    save_file(network.state_dict(), folder / "mobilenetv2_100.safetensors")
    with zipfile.ZipFile(folder / "tinyimagenet_val.zip", "w") as archive:
        for label in range(21):
            for number in range(15):
                path = folder / "one.jpg"
                Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
                archive.write(path, f"n{label:08d}/{number}.jpg")
        path.unlink()
