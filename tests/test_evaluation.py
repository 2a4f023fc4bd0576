"""Measuring models whose margins are known, and leaving everything else as it was."""

import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from measured import Linear, Net, exact_margins, of, pictures, predictions
from temper import data, models
from temper.errors import ArgumentError, EvidenceError
from temper.evaluation import measurement, searching
from temper.evaluation.examples import examples
from temper.evaluation.measurement import Evaluation, measure
from temper.evaluation.samples import from_arrays, from_dataset
from temper.margins import EvidenceTable
from temper.threat import NORMS, parse_threats

pytestmark = pytest.mark.numerical

RADII = {"Linf": "0.01,0.02,0.04,0.08", "L2": "0.05,0.1,0.2,0.4", "L1": "0.2,0.5,1,2"}
# By how much the last radius survived may exceed the margin: ten steps of L2 and L1 end near the best point only, and
# cross-entropy may climb towards another class than the nearest.
SHORT = {"Linf": 0.06, "L2": 0.08, "L1": 0.08}
evaluate = functools.partial(measurement.evaluate, suite="apgd")
THREATS = [f"{norm}:{radii}" for norm, radii in RADII.items()]
FOUND = ["sample", "label", "prediction", "norm", "suite", "upper", "survived", "attack"]


@pytest.fixture(scope="module")
def linear() -> tuple[Linear, torch.Tensor, torch.Tensor, EvidenceTable]:
    model, images = Linear(), pictures()
    labels = predictions(model, images)
    return model, images, labels, evaluate(model, images, labels, THREATS)


# --- evidence is true -----------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_evidence_on_a_linear_classifier_lies_on_the_right_sides_of_its_margins(linear, norm):
    model, images, _, table = linear
    margins, rows = exact_margins(model, images, norm), of(table, norm)
    found = np.isfinite(rows["upper"])
    assert found.sum() >= 8  # radii on both sides of the margins, or the test says nothing
    assert (rows["upper"] >= margins * (1 - 1e-6)).all()
    assert (rows["survived"] <= margins * (1 + SHORT[norm])).all()
    largest = float(RADII[norm].split(",")[-1])
    assert ((rows["upper"] <= largest) | (rows["survived"] >= largest)).all()
    got = table.robust_accuracy(norm, largest)
    assert got.unknown == 0
    assert (margins > largest).mean() <= got.value <= (margins > largest / (1 + SHORT[norm])).mean()
    integral = table.expected_robustness(norm, largest)
    truth = np.minimum(margins, largest).mean() / largest
    assert integral.value / (1 + SHORT[norm]) <= truth <= integral.value + integral.unknown + 1e-6
    assert integral.unknown < 0.1


@pytest.mark.slow
def test_proven_networks_keep_their_word(network, shared_data):
    with np.load(shared_data / "proven" / "cifar10_resnet21__resnet_4b.npz") as proven:
        chosen = np.flatnonzero(proven["verdict"] == "robust")[:6]
        x, y, eps = torch.from_numpy(proven["x"][chosen]), proven["label"][chosen], proven["eps"][chosen]
    assert len(chosen) == 6
    model = network("cifar_resnet4b")
    limits = eps.astype(float) * (1 - 1e-4)
    table = evaluate(model, x, y, [f"Linf:{r!r}" for r in sorted({*limits.tolist(), 6 / 255})])
    rows = of(table, "Linf")
    assert (rows["label"] == rows["prediction"]).all()
    assert (rows["upper"] > limits).all()
    assert (rows["survived"] >= limits).all()
    assert np.isfinite(rows["upper"]).any()


def test_examples_are_spread_over_the_table_and_are_what_they_say(linear):
    model, images, labels, table = linear
    for norm in NORMS:
        found = examples(model, from_arrays(images, labels), table, norm, "apgd", seed=0, count=4)
        uppers, margins = of(table, norm)["upper"].to_numpy(), exact_margins(model, images, norm)
        flipped = margins[np.isfinite(uppers)]
        assert len(found) == 4
        assert found[0].distance == pytest.approx(flipped.min(), rel=0.05)
        assert found[-1].distance == pytest.approx(flipped.max(), rel=0.05)
        for example in found:
            assert np.isclose(margins, example.distance, rtol=0.05).any()
            assert example.distance >= margins.min() * (1 - 1e-6)
            delta = (example.adversarial.double() - example.image.double()).flatten()
            length = delta.norm(p={"Linf": torch.inf, "L2": 2, "L1": 1}[norm])
            assert float(length) == pytest.approx(example.distance)
            assert predictions(model, example.adversarial[None]).item() == example.adversarial_prediction
            assert example.adversarial_prediction != example.prediction == example.label


def test_examples_of_a_table_without_flips_are_none():
    images = pictures(3)
    labels = predictions(Linear(), images)
    table = evaluate(Linear(), images, labels, "Linf:1e-6")
    assert examples(Linear(), from_arrays(images, labels), table, "Linf", "apgd", seed=0) == []


@pytest.mark.parametrize("favoured", [0, 1, 2])
@pytest.mark.parametrize("norm", NORMS)
def test_examples_are_flips_of_two_images_each_asked_about_alone(linear, favoured, norm):
    """As a report shows them, and not as they came out in a batch, where rounding is another."""

    class Lonely(Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bonus = torch.nn.functional.one_hot(torch.tensor(favoured), 3) * 0.5 * (len(x) == 1)
            return super().forward(x) + bonus

    _, images, labels, table = linear
    alone = torch.cat([predictions(Lonely(), image[None]) for image in images])
    assert 0 < (alone != labels).sum() < len(images)
    found = examples(Lonely(), from_arrays(images, labels), table, norm, "apgd", seed=0, count=len(images))
    assert found
    for example in found:
        shown = [predictions(Lonely(), picture[None]).item() for picture in (example.image, example.adversarial)]
        assert shown == [example.prediction, example.adversarial_prediction]
        assert shown[0] != shown[1]


def test_wrong_predictions_are_not_attacked():
    images = pictures()
    labels = (predictions(Linear(), images) + torch.arange(24) % 2) % 3
    rows = of(evaluate(Linear(), images, labels, "Linf:0.05"), "Linf")
    wrong = rows[rows["label"] != rows["prediction"]]
    assert len(wrong) == 12
    assert (wrong["forward"] == 0).all()
    assert np.isinf(wrong["upper"]).all()


# --- results belong to samples, not to circumstances ----------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:accuracy does not fall")
@pytest.mark.parametrize("kind", [Linear, Net])
def test_the_table_does_not_depend_on_the_batch_size(kind):
    model, images = kind(), pictures(9)
    labels = predictions(model, images)
    tables = [evaluate(model, images, labels, THREATS, batch_size=size).frame for size in (1, 7, 64)]
    for other in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], other, rtol=0, atol=0)


def test_samples_do_not_influence_each_other(linear):
    model, images, labels, table = linear
    fewer = evaluate(model, images[:5], labels[:5], THREATS).frame
    same = table.frame[table.frame["sample"] < 5].reset_index(drop=True)
    pd.testing.assert_frame_equal(fewer, same, rtol=0, atol=0)


def test_seeds_repeat_and_differ():
    model, images = Net(), pictures(6)
    labels = predictions(model, images)
    one, again, other = (evaluate(model, images, labels, "L2:0.5,1", suite="pgd", seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(one.frame, again.frame)
    assert not one.frame["upper"].equals(other.frame["upper"])


def test_bytes_and_floats_of_the_same_pictures_agree(linear):
    model, images, labels, table = linear
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    pd.testing.assert_frame_equal(evaluate(model, pixels, labels.tolist(), THREATS).frame, table.frame)


def test_a_data_set_and_its_array_agree():
    model = models.load("bundled", num_classes=10)
    few = data.load("digits").limit(4, seed=0)
    threats = parse_threats("Linf:1/255")
    one = measure(model, from_dataset(few, model), threats, "pgd", 0).table
    resized = np.stack([image.permute(1, 2, 0).numpy() for image, _, _ in from_dataset(few, model).items])
    other = evaluate(model, resized, few.labels, "Linf:1/255", suite="pgd")
    columns = ["label", "prediction", "upper", "survived"]
    pd.testing.assert_frame_equal(one.frame[columns], other.frame[columns])
    assert one.frame["sample"].tolist() == few.ids.tolist()
    with pytest.raises(ArgumentError, match=r"images = \(1, 8, 8\): the model takes \(3, 32, 32\)"):
        evaluate(model, np.stack([few.images[i] for i in range(4)]), few.labels, "Linf:1/255")


# --- stopping and going on ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:accuracy does not fall")
def test_resuming_ends_where_an_uninterrupted_measurement_does(monkeypatch, tmp_path):
    model, images = Net(), pictures(10)

    def run(**options) -> Evaluation:
        samples, threats = from_arrays(images, predictions(model, images)), parse_threats(["Linf:0.02,0.1", "L2:0.5"])
        return measure(model, samples, threats, "apgd", 4, batch_size=3, **options)

    whole = run()
    assert whole.complete
    spent = []
    for budget in (25, 45, 65):  # the clock ticks at least once in every step
        with monkeypatch.context() as patch:
            clock = itertools.count()
            ticking = SimpleNamespace(monotonic=lambda clock=clock: float(next(clock)))
            for module in (measurement, searching):
                patch.setattr(module, "time", ticking)
            done = run(journal=tmp_path, time_budget=budget)
        assert not done.complete
        assert done.table.robust_accuracy("L2", 0.5).unknown > 0
        spent.append(done.table.passes()["forward"])
    assert 0 < spent[0] < spent[1] < spent[2] < whole.table.passes()["forward"]
    for _ in range(2):  # the second time there is nothing left to do
        finished = run(journal=tmp_path)
        assert finished.complete
        pd.testing.assert_frame_equal(finished.table.frame, whole.table.frame)
        assert finished.table.provenance == whole.table.provenance
    # What a table remembers is enough to go on, too.
    again = run(known=done.table)
    found = [column for column in FOUND if column != "attack"]
    pd.testing.assert_frame_equal(again.table.frame[found], whole.table.frame[found])


def test_passes_in_table_and_journal_count_once(tmp_path):
    model, images = Linear(), pictures(6)
    samples, threats = from_arrays(images, predictions(model, images)), parse_threats("Linf:0.05")
    first = measure(model, samples, threats, "apgd", 0, journal=tmp_path).table
    again = measure(model, samples, threats, "apgd", 0, journal=tmp_path, known=first).table
    assert again.passes() == first.passes()
    more = measure(model, samples, parse_threats("Linf:0.05,0.1"), "apgd", 0, journal=tmp_path, known=first).table
    assert more.passes()["forward"] > first.passes()["forward"]


@pytest.mark.parametrize("suite", ["apgd", "margin"])
def test_what_a_table_knows_is_in_the_journal_from_then_on(tmp_path, monkeypatch, suite):
    """A table from elsewhere, put into a folder whose journal knows less: it is taken in once, whole."""
    model, images = Linear(), pictures(6)
    samples, threats = from_arrays(images, predictions(model, images)), parse_threats("Linf:0.05")
    whole = measure(model, samples, threats, suite, 0)
    begun = measure(model, samples, threats, suite, 0, journal=tmp_path, time_budget=0)
    assert begun.table.passes()["forward"] == 0
    monkeypatch.setattr(searching, "search", None)  # nothing is searched again
    for known in (whole.table, whole.table, None):  # None: from the journal alone
        again = measure(model, samples, threats, suite, 0, journal=tmp_path, known=known)
        assert again.complete
        pd.testing.assert_frame_equal(again.table.frame, whole.table.frame)


@pytest.mark.slow
def test_a_precision_takes_a_part_of_the_attacks_and_holds_the_truth(tmp_path):
    model, images = Linear(), pictures(600)
    labels = predictions(model, images)
    labels[::9] = (labels[::9] + 1) % 3
    samples, threats = from_arrays(images, labels), parse_threats("Linf:0.04")
    truth = measure(model, samples, threats, "apgd", 0).table.robust_accuracy("Linf", 0.04).value
    assert 0.2 < truth < 0.8
    done = measure(model, samples, threats, "apgd", 0, precision=0.05, journal=tmp_path)
    subset = done.subset
    assert done.complete
    assert subset.test_set.low <= truth <= subset.test_set.high
    assert subset.half_width <= 0.05
    assert subset.attacked < 0.5 * subset.correct
    frame = done.table.frame
    assert int((frame["forward"] > 0).sum()) == subset.attacked
    # What was attacked is remembered: asked for more precision, it goes on.
    finer = measure(model, samples, threats, "apgd", 0, precision=0.015, journal=tmp_path)
    assert finer.subset.attacked > subset.attacked
    spent = finer.table.passes()["forward"]
    assert spent > done.table.passes()["forward"]
    assert (
        measure(model, samples, threats, "apgd", 0, precision=0.015, journal=tmp_path).table.passes()["forward"]
        == spent
    )


@pytest.mark.parametrize(
    ("threats", "suite", "precision"),
    [("Linf:0.04", "apgd", 0.0), ("Linf:0.04,0.08", "apgd", 0.01), ("Linf:0.04", "margin", 0.01)],
)
def test_a_precision_that_cannot_be_had_is_refused(threats, suite, precision):
    images = pictures(4)
    samples = from_arrays(images, predictions(Linear(), images))
    with pytest.raises(ArgumentError, match="precision"):
        measure(Linear(), samples, parse_threats(threats), suite, 0, precision=precision)


def test_no_time_gives_no_estimate():
    images = pictures(40)
    samples = from_arrays(images, predictions(Linear(), images))
    done = measure(Linear(), samples, parse_threats("Linf:0.05"), "apgd", 0, precision=0.1, time_budget=0)
    assert (done.complete, done.subset) == (False, None)


def test_another_radius_goes_on_from_what_is_known():
    model, images = Linear(), pictures(8)
    samples = from_arrays(images, predictions(model, images))
    first = measure(model, samples, parse_threats("Linf:0.02"), "apgd", 0).table
    both = measure(model, samples, parse_threats("Linf:0.05"), "apgd", 0, known=first).table
    assert both.provenance.radii == {"apgd": {"Linf": [0.02, 0.05]}}
    before, after = of(first, "Linf"), of(both, "Linf")
    broken = np.isfinite(before["upper"])
    assert broken.any()
    pd.testing.assert_frame_equal(before[broken.to_numpy()], after[broken.to_numpy()])
    assert both.robust_accuracy("Linf", 0.02).value == first.robust_accuracy("Linf", 0.02).value
    assert both.robust_accuracy("Linf", 0.05).unknown == 0


def test_no_time_leaves_all_unknown():
    images = pictures(6)
    labels = predictions(Linear(), images)
    done = measure(Linear(), from_arrays(images, labels), parse_threats("Linf:0.05"), "apgd", 0, time_budget=0)
    assert not done.complete
    got = done.table.robust_accuracy("Linf", 0.05)
    assert (got.value, got.high, got.unknown, got.n) == (0, 1, 1, 6)
    assert done.table.clean_accuracy().value == 1
    assert done.table.passes() == {"forward": 0, "backward": 0}


def test_evidence_on_something_else_is_not_gone_on_with():
    images = pictures(4)
    labels = predictions(Linear(), images)
    known = evaluate(Linear(), images, labels, "Linf:0.05")
    other = Linear()
    with torch.no_grad():
        other.weight += 1e-3

    def go_on(model, samples, seed=0) -> None:
        measure(model, samples, parse_threats("Linf:0.05"), "apgd", seed, known=known)

    with pytest.raises(EvidenceError, match="the evidence is on another model"):
        go_on(other, from_arrays(images, labels))
    with pytest.raises(EvidenceError, match="the evidence is on another data"):
        go_on(Linear(), from_arrays(images.flip(0), labels.flip(0)))
    with pytest.raises(EvidenceError, match="found with seed 0, not 1"):
        go_on(Linear(), from_arrays(images, labels), seed=1)


def test_ctrl_c_reaches_the_caller(monkeypatch):
    images = pictures(2)
    monkeypatch.setattr(measurement, "measure", lambda *_, **__: Evaluation(None, complete=False, seconds=0.0))
    with pytest.raises(KeyboardInterrupt):
        evaluate(Linear(), images, [0, 0], "Linf:0.1")


# --- nothing else is changed ----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:accuracy does not fall")
def test_model_and_random_numbers_are_left_as_they_were():
    model, images = Net(), pictures(5)
    labels = predictions(model, images)
    model.train()
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    strides = [parameter.stride() for parameter in model.parameters()]
    stream, pixels = torch.get_rng_state(), images.clone()
    evaluate(model, images, labels, THREATS, batch_size=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [parameter.stride() for parameter in model.parameters()] == strides
    assert [m.training for m in (model, model.conv, model.norm, model.head)] == [True, True, False, True]
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert [name for name, flag in flags.items() if not flag] == ["conv.weight"]
    grads = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert grads == ["head.weight"]
    assert model.head.weight.grad.eq(1).all()
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.equal(images, pixels)
    assert torch.is_grad_enabled()


def test_the_caller_may_be_in_autocast_or_without_gradients(linear):
    model, images, labels, table = linear
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        again = evaluate(model, images, labels, "Linf:0.01,0.02,0.04,0.08")
    assert of(again, "Linf")["prediction"].tolist() == of(table, "Linf")["prediction"].tolist()
    assert (of(again, "Linf")["upper"] >= exact_margins(model, images, "Linf") * (1 - 1e-6)).all()
