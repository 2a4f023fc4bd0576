"""The pseudo-margin: learns what there is to learn, the same each time, and refuses what it cannot use."""

import json
import struct
from dataclasses import replace
from operator import attrgetter

import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor

from temper.detection import pseudo
from temper.detection.pseudo import PseudoMargin
from temper.detection.recipes import RECIPES
from temper.errors import ArgumentError, EvidenceError
from temper.margins.scores import logit_margin

RECIPE_NAMES = sorted(RECIPES)


def samples(n: int = 600, seed: int = 0, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Features, the logits of a linear head, and margins: the logit margin over a slope that the features tell."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 12, generator=generator)
    head = torch.randn(12, classes, generator=torch.Generator().manual_seed(99))
    logits = features @ head
    return features, logits, 0.02 * logit_margin(logits) * (features[:, 0] + features[:, 1]).exp()


def tau(one: Tensor, two: Tensor) -> float:
    return float(kendalltau(one.numpy(), two.numpy()).statistic)


@pytest.fixture(scope="module")
def fitted() -> PseudoMargin:
    return PseudoMargin.fit(*samples(1000))


@pytest.fixture
def brief(monkeypatch):
    """Recipes cut short, for what does not depend on how much is learned."""
    short = {
        name: replace(
            each, hidden=tuple((16, relu) for _, relu in each.hidden), learning=replace(each.learning, epochs=3)
        )
        for name, each in RECIPES.items()
    }
    monkeypatch.setattr(pseudo, "RECIPES", short)


@pytest.mark.slow
def test_learns_what_the_logit_margin_does_not_tell(fitted):
    features, logits, margins = samples(500, seed=1)
    assert tau(logit_margin(logits), margins) < 0.6
    assert tau(fitted(features, logits), margins) > 0.9
    assert fitted.validation.tau > 0.9


@pytest.mark.slow
def test_is_in_the_unit_of_the_margins(fitted):
    features, logits, margins = samples(500, seed=1)
    ratio = fitted(features, logits) / margins
    assert 0.9 < float(ratio.median()) < 1.1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["paper", "paper-code"])
def test_published_recipes_learn_a_monotone_function(recipe, monkeypatch):
    # Narrower and at a higher rate, or it takes minutes.
    narrow = tuple((64, relu) for _, relu in RECIPES[recipe].hidden)
    learning = replace(RECIPES[recipe].learning, rate=2e-3, epochs=300)
    monkeypatch.setitem(RECIPES, recipe, replace(RECIPES[recipe], hidden=narrow, learning=learning))
    features, logits, _ = samples(700)
    margins = 0.1 * torch.sigmoid((logits if recipe == "paper-code" else features)[:, 0])
    fitted = PseudoMargin.fit(features[:500], logits[:500], margins[:500], recipe)
    estimate = fitted(features[500:], logits[500:])
    assert tau(estimate, margins[500:]) > 0.85
    assert torch.allclose(estimate, margins[500:], atol=0.03)


def test_published_recipes_are_as_published():
    paper, code = RECIPES["paper"], RECIPES["paper-code"]
    assert paper.hidden == ((512, True),) * 5
    assert code.hidden == ((512, False), (512, True), (512, True))
    for each in (paper, code):
        learning = each.learning
        assert (each.members, learning.epochs, learning.batch, learning.rate, learning.best) == (1, 500, 0, 1e-4, False)
    assert (paper.inputs, paper.target, code.inputs, code.target) == ("features", "share", "logits", "root")


@pytest.mark.slow
def test_ranks_no_worse_than_the_logit_margin_where_that_is_perfect():
    features, logits, _ = samples(300)
    fitted = PseudoMargin.fit(features, logits, 0.1 * logit_margin(logits))
    assert fitted.validation.tau > 0.99


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_same_seed_same_networks(recipe, brief):
    data = samples(200)
    one, two, other = (PseudoMargin.fit(*data, recipe, seed) for seed in (3, 3, 4))
    assert torch.equal(one(*data[:2]), two(*data[:2]))
    assert not torch.equal(one(*data[:2]), other(*data[:2]))


def test_the_global_random_stream_is_left_alone(brief):
    before = torch.random.get_rng_state()
    PseudoMargin.fit(*samples(200))
    assert torch.equal(before, torch.random.get_rng_state())


def test_fits_where_gradients_are_off(brief):
    with torch.no_grad():
        PseudoMargin.fit(*samples(200))


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_saved_and_loaded_is_the_same(recipe, brief, tmp_path):
    features, logits, margins = samples(200)
    margins[:7] = torch.inf
    fitted = PseudoMargin.fit(features, logits, margins, recipe, seed=5)
    fitted.save(tmp_path / "pseudo.safetensors")
    loaded = PseudoMargin.load(tmp_path / "pseudo.safetensors")
    assert torch.equal(loaded(features, logits), fitted(features, logits))
    for name in ("recipe", "validation", "widths", "scaling.base", "scaling.scale"):
        assert attrgetter(name)(loaded) == attrgetter(name)(fitted), name
    assert [path.name for path in tmp_path.iterdir()] == ["pseudo.safetensors"]


def test_files_that_are_something_else(brief, tmp_path, monkeypatch):
    path = tmp_path / "pseudo.safetensors"
    with pytest.raises(EvidenceError, match="cannot be read"):
        PseudoMargin.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(EvidenceError, match="not a pseudo-margin's file"):
        PseudoMargin.load(path)
    header = json.dumps({"__metadata__": {"temper_pseudo_margin": "{}"}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(EvidenceError, match="not a pseudo-margin's file"):
        PseudoMargin.load(path)
    PseudoMargin.fit(*samples(200)).save(path)
    monkeypatch.setattr(pseudo, "RECIPES", RECIPES)
    with pytest.raises(EvidenceError, match="another version"):
        PseudoMargin.load(path)


def test_unknown_margins_are_left_out_and_counted(brief):
    features, logits, margins = samples(300)
    holes = margins.clone()
    holes[100:150] = torch.inf
    fitted = PseudoMargin.fit(features, logits, holes)
    keep = torch.isfinite(holes)
    same = PseudoMargin.fit(features[keep], logits[keep], margins[keep])
    assert (fitted.validation.known, fitted.validation.unknown) == (250, 50)
    assert torch.equal(fitted(features, logits), same(features, logits))


def test_too_few_known_margins(brief):
    features, logits, margins = samples(200)
    margins[99:] = torch.inf
    with pytest.raises(EvidenceError, match=r"99 known margins of 200 are too few.*suite margin"):
        PseudoMargin.fit(features, logits, margins)
    with pytest.raises(EvidenceError, match="nothing to learn"):
        PseudoMargin.fit(features, logits, torch.full((200,), 0.1))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["features", "logits", "margins"])
def test_what_is_no_number(place, brief, fitted):
    data = dict(zip(("features", "logits", "margins"), samples(200), strict=True))
    data[place].view(200, -1)[17] = torch.nan
    with pytest.raises(ArgumentError, match=r"17|nan"):
        PseudoMargin.fit(**data)
    if place != "margins":
        with pytest.raises(ArgumentError, match=f"{place} = 'row 17'"):
            fitted(data["features"], data["logits"])


@pytest.mark.slow
def test_shapes_and_names_that_do_not_fit(brief, fitted):
    features, logits, margins = samples(200)
    with pytest.raises(ArgumentError, match="margins"):
        PseudoMargin.fit(features, logits, margins[:-1])
    with pytest.raises(ArgumentError, match="margins = -1"):
        PseudoMargin.fit(features, logits, margins.index_fill(0, torch.tensor(3), -1.0))
    with pytest.raises(ArgumentError, match="logits"):
        PseudoMargin.fit(features, logits[:-1], margins)
    with pytest.raises(ArgumentError, match="at least 2 classes"):
        PseudoMargin.fit(features, logits[:, :1], margins)
    with pytest.raises(ArgumentError, match="features"):
        PseudoMargin.fit(features[:, :, None], logits, margins)
    with pytest.raises(ArgumentError, match="choose one of temper, paper, paper-code"):
        PseudoMargin.fit(features, logits, margins, recipe="best")
    with pytest.raises(ArgumentError, match=r"widths \(12, 5\)"):
        fitted(features[:, 1:], logits)


@pytest.mark.parametrize("classes", [2, 30])
def test_few_and_many_classes(classes, brief):
    features, logits, margins = samples(200, classes=classes)
    assert PseudoMargin.fit(features, logits, margins)(features, logits).shape == (200,)


def test_constant_features_and_ties_of_logits(brief):
    features, logits, margins = samples(200)
    features[:, 3] = 1.0
    logits[:5] = 0.0
    margins[5] = 0.0
    assert torch.isfinite(PseudoMargin.fit(features, logits, margins)(features, logits)).all()


@pytest.mark.slow
def test_an_estimate_does_not_depend_on_its_batch(fitted):
    features, logits, _ = samples(100, seed=2)
    parts = torch.cat([fitted(features[k : k + 7], logits[k : k + 7]) for k in range(0, 100, 7)])
    assert torch.allclose(parts, fitted(features, logits), rtol=1e-4)
    assert fitted(features[:0], logits[:0]).shape == (0,)


@pytest.mark.slow
def test_can_be_attacked_through_its_gradient(fitted):
    features, logits, _ = samples(4, seed=2)
    features.requires_grad_()
    fitted(features, logits).sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
