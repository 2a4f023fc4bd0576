"""Calls that cannot work: generated from what each command's options take, and by hand for what only a person would do.

``python tests/wrong_calls.py`` lists them.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import torch

from temper.cli import bench
from temper.cli import main as cli
from temper.core.calls import Option, options

THREAT = ["--threat", "Linf:8/255"]
MODEL_AND_DATA = ["--model", "bundled", "--data", "digits"]

# A call of each command that would work, in a folder as `furnish` makes one: everything else is changed in it.
RIGHT: dict[str, list[str]] = {
    "demo": [],
    "diagnose": [*MODEL_AND_DATA, "--eps", "8/255", "--out", "new"],
    "finetune": ["--data.train", "digits", "--out", "new"],
    "evaluate": [*MODEL_AND_DATA, *THREAT, "--out", "new"],
    "corruptions": [*MODEL_AND_DATA, "--out", "new"],
    "margins": [*MODEL_AND_DATA, *THREAT, "--out", "new"],
    "predict": ["image.png", "--run", "bundled"],
    "export": ["--run", "bundled", "--format", "torch", "--out", "new.pt2"],
    "app": ["--run", "bundled", "--port", "0"],
    "merge": ["a.parquet", "--out", "new.parquet"],
    "report": ["empty", "--out", "new.html"],
    "env": [],
    "bench plan": ["spec.yaml", "--store", "new"],
    "bench run": ["spec.yaml", "--store", "new"],
    "bench status": ["spec.yaml", "--store", "new"],
    "bench report": ["spec.yaml", "--store", "new"],
    "bench query": ["SELECT 1", "--store", "new"],
    "bench advise": ["--results", "new"],
}
HUGE = "9" * 30


@dataclasses.dataclass(frozen=True)
class WrongCall:
    """A call, and what its one line must say."""

    words: tuple[str, ...]
    says: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(word[:40] or "''" for word in self.words)


def commands() -> dict[str, Callable[..., Any]]:
    """What reads each command's words."""
    benchmark = {f"bench {name}": command for name, command in bench.COMMANDS.items()}
    return {"finetune": cli.finetune_call(), **cli.COMMANDS, **benchmark}


def furnish(folder: Path) -> None:
    """Put into a folder what wrong calls stumble over."""
    (folder / "empty").mkdir()
    (folder / "classes/cat").mkdir(parents=True)
    (folder / "image.png").write_bytes(b"this is no picture")
    (folder / "text.txt").write_text("text\n")
    (folder / "a.parquet").write_bytes(b"PAR1 not")
    (folder / "bad.yaml").write_text("a: [")
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "typo.yaml").write_text("epoch: 3\n")
    (folder / "spec.yaml").write_text("backbones: [bundled]\ndatasets: [digits]\n")
    for name, line in {
        "seeds": "seeds: []",
        "key": "backbone: [bundled]",
        "preset": "preset: gide",
        "pairs": "protocols: [a]",
    }.items():
        (folder / f"{name}.yaml").write_text(f"backbones: [bundled]\ndatasets: [digits]\n{line}\n")
    (folder / "notimg.jpg").write_bytes(b"GIF89a")
    (folder / "word.yaml").write_text("backbones: bundled\ndatasets: [digits]\n")
    (folder / "link").symlink_to("empty")
    (folder / "net.onnx").touch()
    torch.save({"weight": torch.zeros(1)}, folder / "net.pth")
    (folder / "hub").mkdir()
    (folder / "hub/config.json").write_text("{}")


def wrong_calls() -> list[WrongCall]:
    """All of them."""
    generated: list[WrongCall] = []
    for name, command in commands().items():
        found = [each for option in options(command) for each in _of(name, option)]
        # finetune has so many options of the same few types that a third of its calls meets each option and each type.
        generated += found[::3] if name == "finetune" else found
    return [*generated, *_missing(), *BY_HAND]


def _of(command: str, option: Option) -> Iterator[WrongCall]:
    """An option misspelt, empty, without its value, and with each kind of value that it does not take."""
    right, flag = [*command.split(), *RIGHT[command]], f"--{option.name}"
    if option.positional:
        return
    if len(option.name) > 4:
        typo = flag[:-2] + flag[-1] + flag[-2] + "e"
        yield WrongCall((*right, typo, "1"), (f"there is no option {typo}; did you mean", flag))
    if not option.takes_value:
        yield WrongCall((*right, f"{flag}=yes"), (f"{flag} takes no value",))
        return
    yield WrongCall((*right, flag, ""), (f"{option.name} = ''", "is empty"))
    yield WrongCall((*right, f"{flag}="), (f"{option.name} = ''", "is empty"))
    if not _is_list(option.kind):
        yield WrongCall((*right, flag), (f"{flag} needs a value",))
    for value in _refused(option.kind):
        yield WrongCall((*right, flag, value), (option.name.rpartition(".")[2],))


def _is_list(kind: Any) -> bool:
    parts = [kind, *get_args(kind), *(inner for part in get_args(kind) for inner in get_args(part))]
    return any(get_origin(part) in (tuple, dict) for part in parts)


def _refused(kind: Any) -> list[str]:
    """Values that an option of this type cannot take."""
    words, numbers = _words(kind), _numbers(kind)
    if words and str not in numbers:
        wrong = [words[0][:-1] + "x"]
    elif numbers and str not in numbers:
        wrong = ["many"]
    else:
        return []
    if int in numbers:
        wrong += ["1.5", "nan", "inf", "-1", "0x10", HUGE]
    elif float in numbers:
        wrong += ["nan", "inf", "-inf", "-1", "1e999"]
    return wrong


def _words(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return list(map(str, get_args(kind)))
    return [word for part in get_args(kind) for word in _words(part)]


def _numbers(kind: Any) -> set[type]:
    if kind in (int, float, str, Path):
        return {str if kind is Path else kind}
    inner = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
    compound = (Annotated, tuple, typing.Union, types.UnionType)
    return {each for part in inner for each in _numbers(part)} if get_origin(kind) in compound else set()


def _missing() -> Iterator[WrongCall]:
    """Each command without one of the options that it needs."""
    for command, right in RIGHT.items():
        given = {right[place] for place in range(len(right)) if right[place].startswith("--")}
        for flag in sorted(given - {"--data.train"}):
            place = right.index(flag)
            without = (*command.split(), *right[:place], *right[place + 2 :])
            if flag in REQUIRED.get(command, ()):
                yield WrongCall(without, (f"{flag} is missing",))


REQUIRED = {
    "evaluate": ("--model", "--data"),
    "corruptions": ("--model", "--data"),
    "margins": ("--model", "--data", "--threat"),
    "predict": ("--run",),
    "export": ("--run", "--format", "--out"),
    "app": ("--run",),
    "merge": ("--out",),
    "bench query": ("--store",),
}


def _by_hand() -> Iterator[WrongCall]:
    def wrong(words: str | list[str], *says: str) -> WrongCall:
        return WrongCall(tuple(words.split() if isinstance(words, str) else words), says)

    yield wrong("evalaute", "COMMAND = 'evalaute'")
    yield wrong("bench rum", "rum", "run")
    measuring = {name: RIGHT[name] for name in ("evaluate", "corruptions", "margins")}
    for command, right in measuring.items():
        for option, values in PLACES.items():
            for value, says in values.items():
                yield wrong([command, *right, f"--{option}", value], says)
        yield wrong([command, *right, "stray"], "'stray' is one word too many")
        yield wrong([command, *right, "-model", "x"], "there is no option -model; did you mean --model?")
    for command in ("evaluate", "margins"):
        right = RIGHT[command]
        for threat in (
            "Linf",
            "Linf:",
            "L8:1",
            "Linf:x",
            "Linf:0",
            "Linf:-1",
            "Linf:nan",
            "L2:inf",
            "Linf:8",
            "8/255",
            "L2:1e38",
            "L1:1e20",
            "Linf:1e-40",
            "L2:5e-324",
        ):
            place = right.index("--threat") + 1
            yield wrong([command, *right[:place], threat, *right[place + 1 :]], "threat")
        for budget in ("soon", "0", "-1s", "nan", "inf", "10 days", "1e3"):
            yield wrong([command, *right, "--time-budget", budget], f"time-budget = {budget!r}", "such as 90s")
    for alpha in ("0", "1", "5", "1e-40", "5e-324", "1e38"):
        yield wrong(["margins", *RIGHT["margins"], "--alpha", alpha], "alpha", "between 0 and 1")
    yield wrong(["margins", *RIGHT["margins"], "--train-data", "nope.npz"], "train-data", "--pseudo-margin")
    learning = ["margins", *RIGHT["margins"], "--pseudo-margin", "--train-data"]
    yield wrong([*learning, "nope.npz"], "nope.npz")
    yield wrong([*learning, "classes"], "cat")
    for precision in ("0", "0.5", "5"):
        yield wrong(["evaluate", *RIGHT["evaluate"], "--precision", precision], "precision")
    yield wrong(["evaluate", *RIGHT["evaluate"], "--suite", "fsat"], "suite = 'fsat'", "fast")
    for severity in ("0", "6", "x", "1,,2", "1.5", "-1", "1;2"):
        yield wrong(["corruptions", *RIGHT["corruptions"], "--severity", severity], "severity")
    yield wrong(["corruptions", *RIGHT["corruptions"], "--corruption", "fgo"], "fgo", "fog")
    yield wrong(["corruptions", *RIGHT["corruptions"], "--baseline", "nowhere"], "baseline = 'nowhere'")
    yield wrong(["corruptions", *RIGHT["corruptions"], "--baseline", "alexnet"], "baseline = 'alexnet'")
    yield wrong(["corruptions", *RIGHT["corruptions"], "--preset", "guide", "--severity", "1"], "severity")
    for value in ("0", "-1"):
        yield wrong(["bench", "run", "spec.yaml", "--threads", value], f"threads = {value}")
        yield wrong(["bench", "run", "spec.yaml", "--workers", value], f"workers = {value}")
    yield wrong("corruptions --model bundled --data digits --workers -1", "workers = -1")
    yield wrong("bench run spec.yaml --gpus-per-run 0.5", "gpus-per-run")
    for command in ("plan", "run", "status", "report"):
        for spec, says in SPECS.items():
            yield wrong(["bench", command, spec], *says)
    for command in ("status", "report"):
        yield wrong(["bench", command, "spec.yaml", "--store", "empty"], "store = 'empty'", "temper bench run")
        yield wrong(["bench", command, "spec.yaml", "--store", "s3://KEY:S3CRET@bucket/x"], "s3://***@bucket/x")
    yield wrong(["bench", "run", "spec.yaml", "--store", "text.txt"], "text.txt")
    yield wrong(["bench", "run", "spec.yaml", "--store", "text.txt/below"], "text.txt")
    yield wrong(["bench", "query", "", "--store", "empty"], "SQL = ''", "is empty")
    yield wrong(["bench", "query", "SELECT 1", "--store", "nowhere"], "store = 'nowhere'")
    yield wrong(["bench", "query", "SELECT 1", "--store", "s3://KEY:S3/CRET@bucket/x"], "s3://***@bucket/x")
    yield wrong(["bench", "advise", "--results", "nowhere"], "results = 'nowhere'")
    yield wrong(["bench", "advise", "--images", "5"], "images, classes", "say both")
    yield wrong(["bench", "advise", "--data", "nowhere"], "nowhere")
    yield wrong("predict nowhere.png --run nowhere", "nowhere")
    yield wrong("predict empty --run bundled", "IMAGES = 'empty'", "holds no image")
    yield wrong("predict --run bundled", "IMAGES")
    yield wrong("predict image.png --run bundled --json --csv", "--json or --csv")
    yield wrong("export --run nowhere --format torch --out new.pt2", "nowhere")
    yield wrong("export --run bundled --format torch --out new.onnx", "out = 'new.onnx'", ".pt2")
    yield wrong("export --run bundled --format torch --out text.txt/new.pt2", "text.txt")
    yield wrong("export --run nowhere --format torch --out new/below/new.pt2", "nowhere")
    yield wrong(
        "export --run bundled --format torch --out new.pt2 --detector nowhere.json",
        "detector = 'nowhere.json'",
        "temper margins",
    )
    yield wrong("export --run bundled --format torch --out new.pt2 --detector empty", "detector = 'empty': is a folder")
    yield wrong("app --run nowhere --port 0", "run = 'nowhere'")
    yield wrong("app --run bundled --port 65536", "port = 65536", "at most 65535")
    yield wrong("app --run bundled --host 203.0.113.1", "host = '203.0.113.1': is no address of this machine")
    yield wrong("merge --out new.parquet", "TABLE")
    yield wrong("merge nowhere.parquet --out new.parquet", "TABLE = 'nowhere.parquet': is not there")
    yield wrong("merge empty --out new.parquet", "TABLE = 'empty': holds no margins.parquet", "name the folder")
    yield wrong("merge a.parquet --out new.parquet", "a.parquet: cannot be read as Parquet")
    yield wrong("merge a.parquet --out new.parquet --norm Linf", "--norm is about adversarial images", "--adversarial")
    yield wrong("merge --out new.parquet --adversarial a.npz --norm L2", "--source is missing", "--model, --data")
    theirs = "merge --out new.parquet --source tool --norm L2 --model bundled --data digits --adversarial"
    yield wrong(f"{theirs} nowhere.npz", "'nowhere.npz': is not there", "give a .npz")
    yield wrong(f"{theirs} text.txt", "'text.txt': no kind of file", ".npz")
    for out in ("empty", "link", "text.txt/x.parquet", "/dev/null"):
        yield wrong(["merge", "a.parquet", "--out", out], out.removesuffix("/x.parquet"))
        yield wrong(["report", "empty", "--out", out], out.removesuffix("/x.parquet"))
    yield wrong("report --out new.html", "DIR")
    yield wrong("report nowhere --out new.html", "DIR = 'nowhere': is not there", "name the folder of")
    yield wrong("report empty --out new.html", "DIR = 'empty': holds no margins.parquet", "name the folder")
    for words, says in FINETUNE.items():
        yield wrong(["finetune", "--out", "new", *words.split()], says)
    yield wrong("demo --out text.txt", "out = 'text.txt': cannot be made", "choose another")
    yield wrong("diagnose --model nowhere --data digits --eps 8/255 --out new", "error: model = 'nowhere': must be")
    yield wrong("diagnose --model bundled --data nowhere --eps 8/255 --out new", "error: data = 'nowhere': no such")
    yield wrong("demo stray", "'stray' is one word too many")


PLACES = {
    "model": {
        "nowhere": "must be a run folder that exists",
        "empty": "empty",
        "text.txt": "must be a run folder",
        "net.onnx": "did you mean onnx:net.onnx?",
        "net.pth": "did you mean timm:NAME@net.pth or torch:net.pth?",
        "torch:net.pth": "timm:NAME@net.pth",
        "hub": "did you mean hf:hub?",
        "timm:resnet81": "did you mean",
        "timm:resnet18@nowhere.pt": "nowhere.pt: not found",
        "timm:resnet18@notimg.jpg": "weights file notimg.jpg: damaged, or no torch checkpoint",
        "timm:resnet18@empty": "not found",
        "nowhere:factory": "no module 'nowhere'",
        "onnx:nowhere.onnx": "nowhere.onnx",
        "onnx:text.txt": "text.txt",
        "torch:nowhere.pt2": "nowhere.pt2': not found",
        "torch:text.txt": "text.txt': no TorchScript file",
    },
    "data": {
        "nowhere": "no such file or folder",
        "dgits": "did you mean digits?",
        "empty": "empty",
        "classes": "cat",
        "text.txt": "not a kind of file that is read",
        "torchvision:CIFAR11": "CIFAR10",
        "parquet:nowhere": "nowhere",
        "hf:": "'hf:': names no data set; write it as hf:ORG/NAME",
        "webdataset:nowhere": "nowhere",
        "webdataset:text.txt": "text.txt: no plain tar archive",
    },
    "out": {"text.txt": "text.txt", "text.txt/below": "text.txt", "image.png": "image.png"},
}

SPECS = {
    "nowhere.yaml": ("SPEC = 'nowhere.yaml'", "No such file"),
    "empty": ("SPEC = 'empty'",),
    "bad.yaml": ("SPEC = 'bad.yaml'", "is not YAML"),
    "list.yaml": ("SPEC = 'list.yaml'", "key: value"),
    "image.png": ("SPEC = 'image.png'",),
    "seeds.yaml": ("SPEC: seeds = []: is empty",),
    "key.yaml": ("did you mean backbones",),
    "word.yaml": ("SPEC: backbones = 'bundled': give a list of names",),
    "pairs.yaml": ("SPEC: protocols = ['a']: give key: value pairs",),
    "preset.yaml": ("preset = 'gide'", "guide"),
}

FINETUNE = {
    "--config nowhere.yaml": "config = 'nowhere.yaml'",
    "--config empty": "config = 'empty'",
    "--config bad.yaml": "is not YAML",
    "--config list.yaml": "key: value",
    "--config typo.yaml": "did you mean epochs?",
    "--data.train nowhere": "nowhere",
    "--data.train empty": "empty",
    "--data.train text.txt": "text.txt",
    "--data.classes 0": "data.classes = 0: give at least 2",
    "--data.classes 1": "data.classes = 1: give at least 2",
    "--data.test-fraction 1": "data.test-fraction = 1.0: give less than 1",
    "--model.name nowhere": "nowhere",
    "--model.weights nowhere.pt": "nowhere.pt",
    "--model.mean 3": "mean",
    "--model.std 1e-40": "model.std = 1e-40: pixels are divided by it; give at least 1e-06",
    "--model.std 0.5 1e-40 0.5": "model.std = (0.5, 1e-40, 0.5): pixels are divided by it",
    "--eps 1e-40": "eps = '1e-40': is in pixel units",
    "--norm L2 --eps 1e38": "eps = '1e38': is in pixel units",
    "--attack.name pgd --attack.step-size 1e39": "attack.step-size = 1e+39: give at most",
    "--objective.name mart --objective.beta 1e38": "objective.beta = 1e+38: give at most",
    "--optimiser.clip-norm 1e-40": "optimiser.clip-norm = 1e-40: give at least",
    "--model.args a": "model.args = 'a'",
    "--eps 2": "eps = 2.0: is beyond the pixel box [0, 1]; did you mean 2/255?",
    "--eps 8": "eps = 8.0: is beyond the pixel box [0, 1]; did you mean 8/255?",
    "--norm Linf,L1": "eps = 0.03137254901960784: give one for each norm",
    "--norm Linf,L1 --eps 4,12": "eps = 4.0: is beyond the pixel box [0, 1]; did you mean 4/255?",
    "--norm L7": "norm = 'L7': choose one of Linf, L2, L1",
    "--eps 0": "eps = 0.0: choose objective.name standard",
    "--eps 8/0": "eps = '8/0'",
    "--epochs 0": "epochs = 0: give at least 1",
    "--batch-size 1": "batch-size = 1: give at least 2",
    "--attack.step-size 1": "attack.step-size = 1.0: attack apgd chooses its own",
    "--schedule.patience 3": "schedule.patience = 3: schedule hinge has no option patience",
    "--schedule.name custom": "schedule.function",
    "--schedule.name custom --schedule.function nowhere:f": "nowhere",
    "--schedule.end 99": "end = 99.0",
    "--optimiser.betas 0.9": "--optimiser.betas needs a value",
    "--optimiser.betas 0.9 1": "optimiser.betas.1 = 1.0: give less than 1",
    "--optimiser.ema 1": "optimiser.ema = 1.0",
    "--evaluation.suite fsat": "fsat",
    "--data classes": "did you mean --data.train",
    "--loggers tensorbord": "did you mean tensorboard?",
    "--out text.txt": "text.txt",
    "--out empty/../text.txt/x": "text.txt",
}

BY_HAND = [*_by_hand()]


if __name__ == "__main__":
    import json
    import sys

    sys.stdout.write(json.dumps([each.words for each in wrong_calls()]) + "\n")
