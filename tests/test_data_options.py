"""Runs on classes of unequal size, mixtures and extra images."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from temper import data
from temper.benchmark.costs import Sizes
from temper.benchmark.planning import sizes
from temper.core.interrupt import Stopped
from temper.errors import ArgumentError, RunError
from temper.runs.finetune import train_only
from temper.training import loop
from temper.training.config import FinetuneConfig, completed, read_config
from temper.training.mixing import make_mix, mixed
from temper.training.sections.images import DataConfig
from temper.training.seen import seen_by
from temper.training.splits import load_splits
from tiny_runs import assert_nearly_same_training, assert_same_weights, config, steps, weights

ALL = {"balance": "sampler", "mix": "mixup", "extra": "extra.npz", "extra_share": 0.4}
OPTIONS = {
    "sampler": {"balance": "sampler"},
    "weights": {"balance": "weights"},
    "cutmix": {"mix": "cutmix"},
    "all": ALL,
}


@pytest.fixture(autouse=True)
def _place(monkeypatch, tmp_path):
    """A folder with extra images for digits: 40 of noise, of each class 4."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    save_extra("extra.npz")


def save_extra(name, classes=tuple("0123456789"), images=None):
    noise = np.random.default_rng(3).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(40) % len(classes)
    np.savez(name, images=noise if images is None else images, labels=labels, class_names=classes)


def trained(out, options, **changes):
    settings = config(Path(out), precision="fp32", **changes)
    # 95 of ten classes: some have 10 images, and some 9.
    return train_only(read_config(settings | {"data": settings["data"] | {"train_limit": 95} | options}))


@pytest.mark.slow
@pytest.mark.numerical
@pytest.mark.parametrize("name", OPTIONS)
def test_resumed_in_the_middle_of_an_epoch_ends_bit_identical(name, monkeypatch):
    schedule = {"name": "custom", "function": "tiny:interrupting"}
    with pytest.raises(Stopped):
        trained("run", OPTIONS[name], schedule=schedule)
    monkeypatch.setattr(tiny, "interrupting", tiny.constant)
    resumed = trained("run", OPTIONS[name], schedule=schedule)
    whole = trained("whole", OPTIONS[name], schedule=schedule)
    assert_same_weights(resumed, whole)
    assert [row["loss"] for row in steps(resumed)] == [row["loss"] for row in steps(whole)]
    plain = trained("plain", {}, schedule=schedule)
    assert not torch.equal(weights(plain)["head.weight"], weights(whole)["head.weight"])


@pytest.mark.slow
@pytest.mark.numerical
@pytest.mark.usefixtures("warm_processes")
def test_two_processes_draw_and_mix_what_one_does():
    same = {"model": {"name": "tiny:plain", "image_size": 8}, "epochs": 2}
    one, two = trained("one", ALL, **same), trained("two", ALL, **same, devices=2)
    assert_nearly_same_training(one, two)


@pytest.mark.slow
def test_a_run_is_not_resumed_with_other_options():
    trained("run", {"balance": "weights"}, epochs=1)
    with pytest.raises(RunError, match=r"started with data.balance = 'weights', not None; resume with the same"):
        trained("run", {}, epochs=1)
    with pytest.raises(RunError, match=r"started with data.mix = None, not 'cutmix'; resume with the same"):
        trained("run", {"balance": "weights", "mix": "cutmix"}, epochs=1)


@pytest.mark.slow
def test_what_a_run_is_given(monkeypatch):
    """Batches of one size, soft labels, a share of extra images, and steps as without."""
    seen = []
    accumulate = loop.accumulate

    def watched(*arguments):
        seen.append(arguments[4])
        return accumulate(*arguments)

    monkeypatch.setattr(loop, "accumulate", watched)
    run = trained("run", ALL, epochs=2)
    own = set(run.record["data"]["train"]["ids"])
    assert sorted(len(y) for _, y, _ in seen) == [23] * 2 + [24] * 6
    assert [sum(each not in own for each in ids.tolist()) for *_, ids in seen] == [
        round(0.4 * len(y)) for _, y, _ in seen
    ]
    for _, y, _ in seen:
        torch.testing.assert_close(y.sum(1), torch.ones(len(y)))
        assert (y > 0).sum(1).max() == 2


def test_a_mixture_is_its_batch_and_its_neighbour_in_the_proportion_of_its_label():
    mix = make_mix(DataConfig(mix="mixup").completed(), 3)
    assert mix is not None
    images, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 1])
    state = torch.get_rng_state()
    x, y = mixed(mix, images, labels, 0, 1, 5)
    assert torch.equal(torch.get_rng_state(), state)
    share = y[0, 0]
    torch.testing.assert_close(x, share * images + (1 - share) * images.roll(1, 0))
    again, other = mixed(mix, images, labels, 0, 1, 5), mixed(mix, images, labels, 0, 1, 6)
    assert torch.equal(again[1], y)
    assert not torch.equal(other[1], y)


def test_the_images_of_the_two_sources_are_recorded_as_seen():
    splits = load_splits(DataConfig(train="digits", extra="extra.npz"), 0)
    assert splits.extra is not None
    assert splits.record()["extra"]["n"] == 40
    seen = np.unique(np.concatenate([part.digests() for part in splits.seen]))
    assert np.isin(splits.extra.digests(), seen).all()
    assert not np.isin(splits.test.digests(), seen).any()


@pytest.mark.slow
def test_measuring_on_extra_images_leaves_them_out():
    run = trained("run", {"extra": "extra.npz"}, epochs=1)
    assert np.isin(data.load("extra.npz").digests(), seen_by(str(run.folder))).all()


def test_held_out_images_are_no_extra_ones(caplog):
    """A second source that holds the whole of the first would train on its test images."""
    digits = data.load("digits")
    labels = digits.labels
    np.savez("copy.npz", images=np.stack([digits.images[i] for i in range(len(digits))]), labels=labels)
    splits = load_splits(DataConfig(train="digits", extra="copy.npz"), 0)
    assert splits.extra is not None
    assert not np.isin(splits.extra.digests(), splits.test.digests()).any()
    assert "those that are held out to measure on" in caplog.text


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (tuple("012345678"), "lacks 9; rename"),
        (tuple("012345678A"), "lacks 9; has beside them A; rename"),
        (("zero", *"123456789", "ten", "elf", "A", "B"), "lacks 0; has beside them zero, ten, elf and 2 more; rename"),
    ],
)
def test_class_names_must_match(classes, said):
    save_extra("other.npz", classes)
    with pytest.raises(ArgumentError, match=r"data.extra = 'other.npz'.*those of the training data.*" + said):
        load_splits(DataConfig(train="digits", extra="other.npz"), 0)


def test_classes_may_stand_in_another_order():
    save_extra("other.npz", tuple("9876543210"))
    splits = load_splits(DataConfig(train="digits", extra="other.npz"), 0)
    assert splits.extra is not None
    assert splits.extra.labels[:3].tolist() == [9, 8, 7]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"extra_share": 0.5}}, "data.extra_share = 0.5: there are no extra images; name them with extra"),
        ({"data": {"mix_alpha": 0.5}}, "data.mix_alpha = 0.5: nothing is mixed; choose mix mixup or cutmix"),
        ({"data": {"mix": "cutmix"}, "objective": {"name": "mart"}}, "data.mix = 'cutmix': objective mart needs one"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, said):
    with pytest.raises(ArgumentError) as error:
        read_config(changes)
    assert said in str(error.value)


def test_the_training_data_are_no_extra_ones():
    with pytest.raises(ArgumentError, match="is the training data"):
        load_splits(DataConfig(train="digits", extra="digits"), 0)


def test_what_is_not_used_is_not_written():
    """So that the hash of a configuration of before, by which benchmarks know its run, stays what it was."""
    assert not {"extra", "extra_share", "balance", "mix", "mix_alpha"} & FinetuneConfig().data.model_dump().keys()


def test_defaults_are_filled_in_where_they_apply():
    assert completed(FinetuneConfig()).data == DataConfig()
    assert completed(read_config({"data": {"extra": "x", "mix": "mixup"}})).data.extra_share == 0.7
    assert completed(read_config({"data": {"extra": "x", "mix": "mixup"}})).data.mix_alpha == 1.0


def test_each_part_can_be_limited():
    limits = {"train_limit": 200, "validation_limit": 30, "test_limit": 50}
    splits, whole = load_splits(DataConfig(train="digits", **limits), 0), load_splits(DataConfig(train="digits"), 0)
    for name, limited, all_of_it in (
        ("train", splits.train, whole.train),
        ("validation", splits.validation, whole.validation),
        ("test", splits.test, whole.test),
    ):
        assert len(limited) == limits[f"{name}_limit"] < len(all_of_it)
        assert set(limited.ids) <= set(all_of_it.ids)
        assert set(limited.labels) == set(range(10))  # stratified
    assert sizes(DataConfig(train="digits", **limits)) == Sizes(200, 50, 30)


def test_a_limit_of_validation_leaves_what_was_written_before_as_it_was():
    assert "validation_limit" not in DataConfig().model_dump()
    assert DataConfig(validation_limit=30).model_dump()["validation_limit"] == 30
