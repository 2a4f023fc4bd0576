"""Make the bundled network: ordinary training on CIFAR-10, no robustness; writes its weights and its card.

    python scripts/pretrain_bundled.py --data cifar10_train.npz --test cifar10_test.npz

Both files hold ``images`` (uint8 NHWC, 32x32x3) and ``labels`` (int64).
"""

import argparse
import time
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from temper import data, models
from temper.attacks.attack import perturb
from temper.attacks.crafting import crafting
from temper.attacks.pgd import PGD
from temper.core.randomness import sample_keys
from temper.models import bundled
from temper.models.classifier import Classifier

BATCH = 128
PEAK_LEARNING_RATE = 0.2
WEIGHT_DECAY = 5e-4
PADDING = 4
PGD_STEPS = 20
PGD_SAMPLES = 1000
EPSILONS = (0.5, 1, 2, 4, 8)  # in 1/255


def read(path: Path) -> tuple[Tensor, Tensor]:
    """Images as float NCHW in [0, 1], channels last, and labels."""
    dataset = data.load(str(path))
    images = torch.stack([torch.from_numpy(dataset.images[i]) for i in range(len(dataset))])
    pixels = images.permute(0, 3, 1, 2).float().div_(255)
    return pixels.contiguous(memory_format=torch.channels_last), torch.from_numpy(dataset.labels)


def augmented(images: Tensor) -> Tensor:
    """Images padded by 4 black pixels, cropped back at random, mirrored half of the time (He et al. 2016)."""
    count, _, height, width = images.shape
    padded = nn.functional.pad(images, (PADDING,) * 4)
    mirrored = torch.rand(count, 1) < 0.5
    columns = torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))
    columns = columns + torch.randint(2 * PADDING + 1, (count, 1))
    rows = torch.arange(height) + torch.randint(2 * PADDING + 1, (count, 1))
    sample = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train(classifier: Classifier, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Stochastic gradient descent on cross-entropy, one learning-rate cycle."""
    decayed = [parameter for parameter in classifier.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in classifier.parameters() if parameter.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=PEAK_LEARNING_RATE, momentum=0.9, nesterov=True)
    steps = len(images) // BATCH
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, PEAK_LEARNING_RATE, total_steps=epochs * steps, pct_start=0.2
    )
    classifier.train()
    for epoch in range(epochs):
        began, total = time.perf_counter(), 0.0
        for batch in torch.randperm(len(images)).split(BATCH)[:steps]:
            loss = nn.functional.cross_entropy(classifier(augmented(images[batch])), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.3f}, {time.perf_counter() - began:.1f} s")
    classifier.eval()


@torch.no_grad()
def accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of images classified as labelled."""
    predictions = torch.cat([classifier(batch).argmax(1) for batch in images.split(500)])
    return (predictions == labels).double().mean().item()


def robust_accuracy(classifier: Classifier, images: Tensor, labels: Tensor, eps: float) -> float:
    """Share of images that stay as labelled under PGD (Linf, random start, the first flip kept)."""
    keys = sample_keys(0, torch.arange(len(images)), "card")
    with crafting(classifier):
        attacked = [
            perturb(PGD(PGD_STEPS), classifier, x, y, eps, "Linf", keys=k, keep_flips=True)
            for x, y, k in zip(images.split(250), labels.split(250), keys.split(250), strict=True)
        ]
    still_right = classifier(images).argmax(1) == labels
    return (still_right & (classifier(torch.cat(attacked)).argmax(1) == labels)).double().mean().item()


def card(classifier: Classifier, options: argparse.Namespace, train_count: int, tests: tuple[Tensor, Tensor]) -> str:
    """The model card, with everything measured on the weights as they are shipped."""
    images, labels = tests
    clean = accuracy(classifier, images, labels)
    first = images[:PGD_SAMPLES], labels[:PGD_SAMPLES]
    first_clean = accuracy(classifier, *first)
    rows = "\n".join(f"| {eps:g}/255 | {robust_accuracy(classifier, *first, eps / 255):.3f} |" for eps in EPSILONS)
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    recipe = [
        f"{options.epochs} epochs of SGD (batch {BATCH}, Nesterov momentum 0.9, weight decay {WEIGHT_DECAY})",
        f"one learning-rate cycle up to {PEAK_LEARNING_RATE}",
        f"cross-entropy, random crop (padding {PADDING}) and mirror, seed {options.seed}",
        "no adversarial training",
    ]
    return f"""# The bundled network

A small residual network for {bundled.IMAGE_SIZE}x{bundled.IMAGE_SIZE} RGB images, trained on natural images
in the ordinary way. It is here so that Temper can be tried without a download. **It is not robust**: that is
what fine-tuning is to change.

| | |
|---|---|
| architecture | `temper.models.bundled.BundledNetwork`, {parameters:,} parameters, stored as float16 |
| training data | CIFAR-10, {train_count:,} training images, 10 classes |
| training | {"; ".join(recipe)} |
| normalisation | mean {bundled.MEAN}, standard deviation {bundled.STD}, inside `temper.models.Classifier` |
| clean accuracy | {clean:.4f} on the CIFAR-10 test set ({len(images):,} images) |
| made by | `scripts/pretrain_bundled.py`, which also measured the numbers on this card |

Robust accuracy in Linf against PGD ({PGD_STEPS} steps on the cross-entropy from a random start) on the first
{len(first[1]):,} test images, {first_clean:.3f} of which are classified correctly when not attacked. A
stronger attack can only find more, so these are upper bounds:

| eps | robust accuracy |
|---|---|
{rows}

CIFAR-10: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""


def main() -> None:
    """Train, save, measure what was saved, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="training images, .npz")
    parser.add_argument("--test", type=Path, required=True, help="test images, .npz")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=bundled.WEIGHTS.parent, help="folder of weights and card")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    classifier = models.load("bundled", weights="none", seed=options.seed).to(memory_format=torch.channels_last)
    images, labels = read(options.data)
    train(classifier, images, labels, options.epochs)

    halves = {name: t.half() if t.is_floating_point() else t for name, t in classifier.network.state_dict().items()}
    contiguous = {name: tensor.contiguous() for name, tensor in halves.items()}
    safetensors.torch.save_file(contiguous, options.out / "weights.safetensors")
    shipped = models.load("bundled", weights=options.out / "weights.safetensors")
    text = card(shipped.to(memory_format=torch.channels_last), options, len(images), read(options.test))
    (options.out / "CARD.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
