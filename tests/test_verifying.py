"""Other tools' adversarial images as evidence: what is true of them enters a table, and only makes it sharper."""

import functools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import temper
from measured import Linear, exact_margins, of, pictures, predictions
from temper.errors import ArgumentError, EvidenceError, TemperWarning
from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.evaluation.verifying import Given, check
from temper.threat import NORMS, Norm, parse_threats

pytestmark = pytest.mark.numerical

ORDER = {"Linf": torch.inf, "L2": 2, "L1": 1}


class Steps(torch.nn.Module):
    """Class 1 where the first pixel is above one half, in float64, so that a flip has no doubt about it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x.double().flatten(1)[:, 0] - 0.5
        return torch.stack([-first, first], 1)


def towards_the_plane(model: Linear, x: torch.Tensor, norm: Norm, eps: float) -> torch.Tensor:
    """Images on the surface of a ball, reckoned in float32 as other tools do, towards the likeliest rival."""
    logits = model(x).topk(2, 1).indices
    with torch.no_grad():
        delta = model.weight[logits[:, 1]] - model.weight[logits[:, 0]]
    delta = delta.sign() if norm == "Linf" else delta / delta.norm(p=ORDER[norm], dim=1, keepdim=True)
    return (x + eps * delta.view_as(x)).clamp(0, 1)


def lengths(images: torch.Tensor, moved: torch.Tensor, norm: Norm) -> np.ndarray:
    return (moved.double() - images.double()).flatten(1).norm(p=ORDER[norm], dim=1).numpy()


@pytest.fixture(scope="module")
def linear() -> tuple[Linear, torch.Tensor, torch.Tensor]:
    model, images = Linear(), pictures()
    return model, images, predictions(model, images)


# --- what is true enters the table ----------------------------------------------------------------


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.05), ("L2", 0.3), ("L1", 2.0)])
def test_what_flips_counts_with_its_distance_and_nothing_else_does(linear, norm, eps):
    model, images, labels = linear
    moved = towards_the_plane(model, images, norm, eps)
    flips = (predictions(model, moved) != labels).numpy()
    assert 4 < flips.sum() < len(images) - 4
    rows = of(temper.verify(model, images, moved, labels, norm, "tool"), norm)
    assert (np.isfinite(rows["upper"]) == flips).all()
    assert rows["upper"][flips].to_numpy() == pytest.approx(lengths(images, moved, norm)[flips], rel=1e-5)
    assert (rows["upper"] <= eps)[flips].all()  # on the surface of the ball, and float32 puts some of it outside
    assert (rows["upper"] >= exact_margins(model, images, norm) * (1 - 1e-6)).all()
    assert (rows["survived"] == 0).all()
    assert rows["attack"].tolist() == ["tool" if flip else "" for flip in flips]
    assert set(rows["suite"]) == {"tool"}
    assert (rows["forward"] == np.where(flips, 4, 1)).all()  # in the batch and alone, there and pulled in
    assert (rows["backward"] == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_what_lies_next_to_the_plane_is_left_where_it_is(norm):
    """Pulled in it would not flip any more."""
    x, moved = torch.full((1, 1, 2, 2), 0.4), torch.full((1, 1, 2, 2), 0.4)
    moved[0, 0, 0, 0] = float(np.nextafter(np.float32(0.5), np.float32(1)))
    table = temper.verify(Steps(), x, moved, [0], norm, "tool")
    assert table.frame["upper"].item() == lengths(x, moved, norm).item()


def test_tables_get_sharper_and_the_search_keeps_its_survival(linear):
    model, images, labels = linear
    weak = temper.evaluate(model, images, labels, "Linf:0.02,0.05", suite="pgd")
    uppers = of(weak, "Linf")["upper"].to_numpy()
    frame = weak.to_pandas()  # a search that missed what there is
    frame.loc[frame["upper"] <= 0.05, ["upper", "survived", "attack"]] = [np.inf, 0.05, ""]
    blind = temper.EvidenceTable(frame, weak.identity, weak.provenance)
    theirs = temper.verify(model, images, towards_the_plane(model, images, "Linf", 0.05), labels, "Linf", "tool")
    merged = blind.merge(theirs)
    assert blind.robust_accuracy("Linf", 0.05).value == 1
    assert merged.robust_accuracy("Linf", 0.05).value == pytest.approx((uppers > 0.05).mean(), abs=0.1)
    assert merged.robust_accuracy("Linf", 0.05).unknown == 0
    assert merged.expected_robustness("Linf", 0.05).value < blind.expected_robustness("Linf", 0.05).value
    both = theirs.merge(blind)
    assert both.frame.equals(merged.frame)
    assert both.provenance == merged.provenance


def test_an_estimate_from_few_attacks_counts_them_too(linear):
    model, images, labels = linear
    threats = parse_threats("Linf:0.05")
    weak = temper.evaluate(model, images, labels, threats=["Linf:0.05"], suite="pgd")
    frame = weak.to_pandas().assign(upper=np.inf, survived=0.05, attack="")
    blind = temper.EvidenceTable(frame, weak.identity, weak.provenance)
    moved = towards_the_plane(model, images, "Linf", 0.05)
    merged = blind.merge(temper.verify(model, images, moved, labels, "Linf", "tool"))
    before, after = (
        measure(
            model, from_arrays(images, labels), threats, "pgd", 0, precision=0.01, known=known
        ).subset.test_set.value
        for known in (blind, merged)
    )
    assert before == 1
    assert after == pytest.approx((predictions(model, moved) == labels).float().mean().item())


@functools.cache
def searched(count: int) -> tuple[Linear, torch.Tensor, torch.Tensor, temper.EvidenceTable]:
    model, images = Linear(), pictures(count)
    labels = predictions(model, images)
    return model, images, labels, temper.evaluate(model, images, labels, "Linf:0.01,0.03", suite="pgd")


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.lists(st.floats(0, 0.2), min_size=3, max_size=3), st.integers(0, 2**31 - 1))
def test_whatever_is_given_no_estimate_rises(sizes, seed):
    model, images, labels, table = searched(8)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    for number, size in enumerate(sizes):
        theirs = temper.verify(model, images, (images + size * noise).clamp(0, 1), labels, "Linf", f"tool {number}")
        after = table.merge(theirs)
        for eps in (0.01, 0.03):
            for name in ("robust_accuracy", "expected_robustness"):
                one, two = (getattr(each, name)("Linf", eps) for each in (table, after))
                assert two.value <= one.value
                assert two.high <= one.high
        table = after


def test_a_table_of_given_images_alone_says_that_nothing_was_searched(linear):
    model, images, labels = linear
    moved = towards_the_plane(model, images, "Linf", 0.05)
    table = temper.verify(model, images, moved, labels, "Linf", "tool")
    got = table.robust_accuracy("Linf", 0.05)
    assert got.value == 0
    assert got.unknown == pytest.approx((predictions(model, moved) == labels).float().mean().item())


@pytest.mark.slow
def test_a_random_model_is_asked_in_expectation(linear):
    class Noisy(Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 0.5 * torch.randn(len(x), 3)

    images, labels = linear[1][:4], linear[2][:4]
    moved = towards_the_plane(Linear(), images, "Linf", 0.2)
    theirs = temper.verify(Noisy(), images, moved, labels, "Linf", "tool", eot=2)
    flips = np.isfinite(theirs.frame["upper"].to_numpy())
    assert flips.any()
    assert set(theirs.frame["forward"][flips]) == {2 * (2 + 100)}
    with pytest.raises(EvidenceError, match="is of eot = 2, not of eot = 3"):
        theirs.merge(temper.verify(Noisy(), images, images, labels, "Linf", "tool", eot=3))
    with pytest.warns(TemperWarning, match="the model is random"):
        temper.verify(Noisy(), images, moved, labels, "Linf", "tool")


# --- in whatever form it comes --------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        lambda moved: moved.numpy(),
        lambda moved: moved.double(),
        lambda moved: moved.numpy().astype(">f8"),
        lambda moved: moved.permute(0, 2, 3, 1).numpy(),
        lambda moved: moved.requires_grad_(),
        lambda moved: moved + 9e-7 * (moved == 1),
    ],
    ids=["array", "float64", "big-endian", "channels last", "with a gradient", "a rounding outside the box"],
)
def test_forms_of_images(linear, form):
    model, images, labels = linear
    moved = towards_the_plane(model, images, "Linf", 0.05)
    plain = temper.verify(model, images, moved, labels, "Linf", "tool")
    assert (moved == 1).any()
    assert temper.verify(model, images, form(moved.clone()), labels, "Linf", "tool").frame.equals(plain.frame)


def test_grey_levels_are_checked_as_they_are(linear):
    """An image that was saved as uint8 is another one, and flips or not on its own."""
    model, images, labels = linear
    moved = towards_the_plane(model, images, "Linf", 0.0505)
    levels = (moved * 255).round().to(torch.uint8)
    flips = (predictions(model, levels.float() / 255) != labels).numpy()
    table = temper.verify(model, images, levels.permute(0, 2, 3, 1).numpy(), labels, "Linf", "tool")
    assert (np.isfinite(table.frame["upper"]) == flips).all()
    assert table.frame["upper"][flips].to_numpy() * 255 == pytest.approx(np.full(flips.sum(), 13), abs=1e-3)


def test_of_several_images_of_a_sample_the_nearest_counts(linear):
    model, images, labels = linear
    samples = from_arrays(images, labels)
    moved = [towards_the_plane(model, images, "L2", eps) for eps in (0.6, 0.3, 0.45)]
    sample = np.concatenate([samples.ids[::-1]] * 3)
    given = Given(torch.cat([each.flip(0) for each in moved]), sample, "L2", "tool")
    got = check(model, samples, given).table.frame["upper"].to_numpy()
    alone = [temper.verify(model, images, each, labels, "L2", "tool").frame["upper"] for each in moved]
    assert np.array_equal(got, np.min(alone, 0))
    assert len(set(np.argmin(alone, 0))) > 1


# --- what is no evidence --------------------------------------------------------------------------


def test_images_outside_the_box_or_not_finite_are_counted_named_and_left_out(linear):
    model, images, labels = linear
    moved = towards_the_plane(model, images, "Linf", 0.2)
    whole = temper.verify(model, images, moved, labels, "Linf", "tool").frame["upper"].to_numpy()
    moved[3, 0, 0, 0], moved[5, 1, 2, 3], moved[6, 0, 1, 1], moved[8, 2, 0, 0] = 1.25, -2e-6, torch.nan, torch.inf
    said = "tool: 2 leave [0, 1], by up to 0.25 (sample 3 first) and 2 are not finite (sample 6 first), and are no"
    with pytest.warns(TemperWarning, match=re.escape(said)):
        left = temper.verify(model, images, moved, labels, "Linf", "tool").frame["upper"].to_numpy()
    assert np.isfinite(whole[[3, 5, 6, 8]]).all()
    assert np.isinf(left[[3, 5, 6, 8]]).all()
    assert np.array_equal(np.delete(left, [3, 5, 6, 8]), np.delete(whole, [3, 5, 6, 8]))


def test_normalised_images_are_refused(linear):
    model, images, labels = linear
    with pytest.raises(ArgumentError, match=r"24 images of tool.*24 leave \[0, 1\], by up to 254.*before any normalis"):
        temper.verify(model, images, images * 255 - 0.5, labels, "Linf", "tool")


def test_a_flip_in_a_batch_that_is_none_alone_is_none(linear):
    class Lonely(Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (len(x) > 1)

    _, images, labels = linear
    moved = towards_the_plane(Linear(), images, "Linf", 0.2)
    assert (predictions(Lonely(), moved) != labels).any()
    assert np.isinf(temper.verify(Lonely(), images, moved, labels, "Linf", "tool").frame["upper"]).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"adversarial": lambda x: x[:5]}, "adversarial = (5, 3, 4, 4): give one image for each of 24 samples"),
        ({"adversarial": lambda x: x[:, :, :2]}, "adversarial = (24, 3, 2, 4): the model sees images of (3, 4, 4)"),
        ({"adversarial": lambda x: x.flatten(1)}, "adversarial = 'Tensor torch.float32 (24, 48)': give an array"),
        ({"adversarial": lambda x: [x]}, "adversarial = 'list  ()': give an array or tensor [N, C, H, W]"),
        ({"adversarial": lambda x: (x * 255).long()}, "adversarial = 'Tensor torch.int64 (24, 3, 4, 4)'"),
        ({"norm": "L8"}, "norm = 'L8': choose one of Linf, L2, L1"),
        ({"source": "fast"}, "source = 'fast': name the tool"),
        ({"source": "../tool"}, "source = '../tool': name the tool"),
        ({"source": ""}, "source = '': name the tool"),
        ({"labels": lambda y: y + 7}, "label = "),
        ({"labels": lambda y: y[:3]}, "labels = "),
    ],
)
def test_what_cannot_be_checked_is_refused(linear, changed, message):
    model, images, labels = linear
    call = {"adversarial": images, "labels": labels, "norm": "Linf", "source": "tool"}
    call |= {name: value(call[name]) if callable(value) else value for name, value in changed.items()}
    with pytest.raises(ArgumentError, match=re.escape(message)):
        temper.verify(model, images, **call)


def test_evidence_on_another_model_or_data_or_of_a_search_of_that_name_is_refused(linear):
    model, images, labels = linear
    table = temper.verify(model, images, images, labels, "Linf", "tool")
    other = Linear()
    with torch.no_grad():
        other.weight *= 2
    with pytest.raises(EvidenceError, match="another model"):
        table.merge(temper.verify(other, images, images, labels, "Linf", "tool"))
    with pytest.raises(EvidenceError, match="another data"):
        table.merge(temper.verify(model, images, images, (labels + 1) % 3, "Linf", "tool"))
    searched = temper.EvidenceTable(
        table.frame, table.identity, temper.margins.table.Provenance({"tool": {"attacks": []}}, {}, [0], [], [])
    )
    with pytest.raises(EvidenceError, match="suite tool had other attacks"):
        table.merge(searched)


# --- beside a real tool ---------------------------------------------------------------------------


@pytest.mark.slow
def test_what_autoattack_breaks_counts_at_its_radius(shared_data, network):
    """Ten steps on cross-entropy leave far more standing than AutoAttack's targeted APGD."""
    autoattack = pytest.importorskip("pyautoattack", reason="needs the reference attacks: pip install pyautoattack")
    model, eps = network("mnist_kw_01"), 0.15
    with np.load(shared_data / "images/mnist_test.npz") as arrays:
        images, labels = arrays["images"][:48], arrays["labels"][:48].astype(np.int64)
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() / 255, torch.from_numpy(labels)
    attack = autoattack.AutoAttack(model, norm="Linf", eps=eps, version="custom", attacks=["apgd-t"], seed=0)
    attack.verbose = False
    with torch.random.fork_rng():
        moved, _ = attack.run_standard_evaluation(x, y)
    standing = ((predictions(model, x) == y) & (predictions(model, moved) == y)).double().mean().item()
    weak = temper.evaluate(model, images, labels, [f"Linf:{eps}"], suite="apgd")
    table = weak.merge(temper.verify(model, images, moved, labels, "Linf", "autoattack"))
    assert (lengths(x, moved, "Linf") > eps).any()  # by a rounding
    assert weak.robust_accuracy("Linf", eps).value > standing + 0.1
    assert table.robust_accuracy("Linf", eps).value <= standing
