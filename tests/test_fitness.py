"""Signs that a search was weaker than it looks."""

import contextlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import kinds
import temper
from temper import models
from temper.attacks.suites import SUITES
from temper.deployment.prediction import Predictor
from temper.errors import EvidenceError, ModelError, TemperWarning
from temper.evaluation.fitness import note_few_classes, warn_if_flat, warn_if_inconstant, warn_if_masked
from temper.evaluation.search import Findings, Outcome
from temper.runs import evaluate
from temper.runs.corruptions import corruptions_into
from temper.runs.margins import margins_into
from temper.threat import parse_threats


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """A folder of 16 images of 8x8 pixels, in two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    for k, image in enumerate(pixels):
        (tmp_path / "photos" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / "ab"[k % 2] / f"{k}.png")
    return str(tmp_path / "photos")


def findings(by_square: int, by_gradient: int, count: int = 100) -> Findings:
    found = Findings(SUITES["standard"].in_norm("Linf"), np.arange(count))
    for sample in range(count):
        if sample < by_gradient:
            found.add(Outcome(sample, "apgd-ce", 0.1, 0.1, 1, 1))
        elif sample < by_gradient + by_square:
            found.add(Outcome(sample, "square", 0.1, 0.1, 1, 0))
        else:
            found.add(Outcome(sample, "square", 0.1, np.inf, 1, 0))
    return found


def test_square_beating_the_gradients_is_a_sign_of_masking():
    with pytest.warns(TemperWarning, match="square, which sees no gradients, broke 3 samples in Linf"):
        warn_if_masked(findings(by_square=3, by_gradient=20), "Linf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_masked(findings(by_square=0, by_gradient=20), "Linf")


@pytest.mark.parametrize(
    ("threats", "curve", "flat"),
    [
        ("Linf:4/255,32/255", [0.6, 0.6], True),
        ("Linf:4/255,32/255", [0.6, 0.59], False),
        ("Linf:4/255,32/255", [0.0, 0.0], False),  # all is broken
        ("Linf:1/255,2/255", [0.6, 0.6], False),  # too small to tell
        ("Linf:32/255", [0.6], False),
        ("L2:0.5,4", [0.6, 0.6], True),
    ],
)
def test_accuracy_that_does_not_fall_is_a_sign(threats, curve, flat):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_if_flat(curve, parse_threats(threats))
    assert bool(told) is flat
    assert not flat or "accuracy does not fall from" in str(told[0].message)


def test_few_classes_are_noted(caplog):
    caplog.set_level("INFO")
    note_few_classes(SUITES["standard"], 2)
    assert "apgd-t: the model has 2 classes, too few for DLR; it takes the logit difference alone" in caplog.text
    assert "fab-t: the model has 2 classes; 1 targets, not 9" in caplog.text
    caplog.clear()
    note_few_classes(SUITES["standard"], 10)
    assert caplog.text == ""


# --- outputs that are not constant ----------------------------------------------------------------


def use(command: str, model: str, photos: str, out: Path) -> None:
    """One of the commands that measure or use a model."""
    if command == "evaluate":
        options = {"suite": "pgd", "limit": None, "seed": 0, "batch_size": None, "time_budget": float("inf")}
        evaluate.evaluate_into(out, model, photos, ["Linf:8/255"], **options)
    elif command == "margins":
        margins_into(out, model, photos, "Linf:8/255")
    elif command == "corruptions":
        corruptions_into(out, model, photos, names=["fog"], severities=[1])
    else:
        list(Predictor.load(model, 8)([str(path) for path in sorted(Path(photos).rglob("*.png"))]))


def told(command: str, model: str, photos: str, out: Path) -> list[str]:
    """What is warned of, in so many words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(EvidenceError):  # of margins, where no flip is one for the image alone
            use(command, model, photos, out)
    return [str(each.message) for each in caught if "logits change by" in str(each.message)]


COMMANDS = ["evaluate", "margins", "corruptions", "predict"]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_outputs_that_are_not_constant_are_told_in_one_line(command, photos, tmp_path):
    (line,) = told(command, "kinds:batch_norm", photos, tmp_path / "coupled")
    assert "depend on the other images of the batch" in line
    assert "every number changes with the batch size" in line
    assert "\n" not in line
    assert told(command, "kinds:uncoupled", photos, tmp_path / "uncoupled") == []


@pytest.mark.parametrize("way", ["batch_norm", "attention", "extremes", "noise"])
def test_every_way_is_told(way):
    what = "the model is random" if way == "noise" else "depend on the other images"
    with pytest.warns(TemperWarning, match=what):
        warn_if_inconstant(models.load(f"kinds:{way}", image_size=8), torch.rand(16, 3, 8, 8))


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_few_images_show_it(count):
    model, x = models.load("kinds:batch_norm", image_size=8), torch.rand(count, 3, 8, 8)
    with pytest.warns(TemperWarning, match="batch norms without running statistics"):
        warn_if_inconstant(model, x)
    warn_if_inconstant(models.load("kinds:uncoupled", image_size=8), x)


@pytest.mark.parametrize("inside", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ["resnet20", "mnist_lenet5_clntrained", "cifar_vit_pgd_2_3_16"])
def test_networks_of_others_raise_no_alarm(shared_data, monkeypatch, name, inside):
    """In float32 and where they autocast inside: two batches of one size round alike."""
    monkeypatch.syspath_prepend(str(shared_data))
    import networks

    model = networks.load(name).eval()
    x = torch.rand(40, *((1, 28, 28) if name.startswith("mnist") else (3, 32, 32)))
    with torch.autocast("cpu", inside, enabled=inside is not None):
        warn_if_inconstant(model, x)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("Flattened", "does not take one image alone .Expected more than 1 value"),
        ("Squeezed", "gives .2. for one image alone"),
    ],
)
def test_a_model_that_refuses_one_image_is_told_in_one_line(command, name, cause, photos, tmp_path):
    with pytest.raises(ModelError, match=f"kinds:{name}: {cause}.*make it for batches of any size") as refused:
        use(command, f"kinds:{name}", photos, tmp_path / "out")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["Flattened", "Squeezed", "Pairs"])
def test_so_is_a_module(name):
    pixels = np.zeros((8, 8, 8, 3), np.uint8)
    with pytest.raises(ModelError, match=f"{name}: .* for batches of any size") as refused:
        temper.evaluate(getattr(kinds, name)(), pixels, [0] * 8, "Linf:0.1", suite="pgd")
    assert "\n" not in str(refused.value)


def test_a_factory_of_a_fixed_batch_is_told_so():
    with pytest.raises(ModelError, match="kinds:Pairs: does not take one image alone"):
        models.load("kinds:Pairs", image_size=8)


# --- precision inside the model -------------------------------------------------------------------


class Lowered(nn.Module):
    """Computes in another precision of its own accord, or only keeps its weights in one."""

    def __init__(self, way: str, low: torch.dtype) -> None:
        super().__init__()
        self.way, self.low = way, low
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(144, 2)
        self.register_buffer("small", torch.randn(2, 144).to(low))

    @torch.autocast("cpu", torch.bfloat16)
    def decorated(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "decorator":
            return self.decorated(x)
        with torch.autocast("cpu", self.low, enabled=self.way == "autocast"):
            features = self.conv(x).flatten(1)
        if self.way == "casts":
            return nn.functional.linear(features.to(self.low), self.small).float()
        return (
            nn.functional.linear(features, self.small.float()) if self.way == "stored" else self.head(features.float())
        )


@pytest.mark.parametrize(
    ("way", "low"),
    [
        ("decorator", torch.bfloat16),
        ("autocast", torch.bfloat16),
        ("autocast", torch.float16),
        ("casts", torch.bfloat16),
        ("casts", torch.float16),
    ],
)
@pytest.mark.parametrize("traced", [False, True])
def test_a_lower_precision_inside_is_told_and_recorded(way, low, traced):
    model, x = Lowered(way, low).eval(), torch.rand(6, 3, 8, 8)
    model = torch.jit.trace(model, x) if traced else model
    name = str(low).removeprefix("torch.")
    with pytest.warns(TemperWarning, match=f"computes in {name} inside .* not at full precision") as caught:
        table = temper.evaluate(model, x, [0] * 6, "Linf:0.1", suite="pgd")
    assert sum("inside" in str(each.message) for each in caught) == 1
    assert f"{name} inside the model" in table.provenance.precision


@pytest.mark.parametrize("way", ["plain", "stored"])
@pytest.mark.parametrize("around", [False, True])
def test_full_precision_inside_is_none(way, around):
    """An autocast around the call is switched off, and weights that are only kept in less lower nothing."""
    x = torch.rand(6, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=around):
        table = temper.evaluate(Lowered(way, torch.bfloat16), x, [0] * 6, "Linf:0.1", suite="pgd")
    assert not any("inside" in each for each in table.provenance.precision)


def test_the_summary_tells_the_precision(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(kinds, "lowered", lambda: Lowered("autocast", torch.bfloat16), raising=False)
    options = {"suite": "pgd", "limit": None, "seed": 0, "batch_size": None, "time_budget": float("inf")}
    with pytest.warns(TemperWarning, match="computes in bfloat16 inside"):
        result = evaluate.evaluate_into(tmp_path / "out", "kinds:lowered", photos, ["Linf:8/255"], **options)
    assert result.to_json()["precision"] == ["bfloat16 inside the model", "float32 search"]
