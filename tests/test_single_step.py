"""Single-step training: its images by their formulas, what it refuses, and catastrophic overfitting said once."""

from pathlib import Path

import pytest
import torch

from temper.attacks.attack import perturb
from temper.attacks.losses import cross_entropy
from temper.core import randomness
from temper.errors import ArgumentError
from temper.runs.run import Run
from temper.runs.watch import watching
from temper.training import inner_attacks
from temper.training.config import completed, read_config
from temper.training.overfitting import NAME, due, words
from temper.training.schedules import EpsilonSchedule
from temper.training.selection import RobustEpoch
from temper.training.transfer import Validation
from tiny_runs import config

EPS = 0.05
HELD = Validation(500, 0.1)


def crafted(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean images, images of the attack, the uniform numbers of its start in [-1, 1), and the signs of the gradient,
    which are a linear model's: the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 4, 4, generator=generator)
    weight = torch.randn(16, 2, generator=generator)
    y, keys = torch.zeros(6, dtype=torch.int64), randomness.sample_keys(0, torch.arange(6), "test")
    own = completed(read_config({"attack": {"name": name}})).attack
    attack = inner_attacks.make(name, own.length, own.step_size, cross_entropy)
    moved = perturb(attack, lambda images: images.flatten(1) @ weight, x, y, EPS, "Linf", keys=keys)
    signs = (weight[:, 1] - weight[:, 0]).sign().view(1, 1, 4, 4)
    return x, moved, 2 * randomness.uniform(keys, (1, 4, 4)) - 1, signs


def test_rs_fgsm_steps_from_a_point_of_the_ball_and_comes_back():
    x, moved, start, signs = crafted("rs-fgsm")
    begun = (x + EPS * start).clamp(0, 1)
    expected = torch.minimum(torch.maximum(begun + 1.25 * EPS * signs, x - EPS), x + EPS).clamp(0, 1)
    torch.testing.assert_close(moved, expected)
    assert (moved - x).abs().max() <= EPS + 1e-6


def test_n_fgsm_steps_from_larger_noise_and_stays_there():
    x, moved, start, signs = crafted("n-fgsm")
    torch.testing.assert_close(moved, ((x + 2 * EPS * start).clamp(0, 1) + EPS * signs).clamp(0, 1))
    assert (moved - x).abs().max() > 1.5 * EPS  # not projected


@pytest.mark.parametrize("name", ["rs-fgsm", "n-fgsm"])
def test_it_is_one_step_at_random_for_linf(name):
    own = completed(read_config({"attack": {"name": name}}))
    assert (own.attack.steps, own.attack.random_start, own.validation.robust_every) == (1, True, 1)
    for wrong in ({"norm": "L2", "eps": 0.5}, {"norm": "L1", "eps": 1.0}):
        with pytest.raises(ArgumentError, match=f"{name} is made for Linf alone"):
            read_config({"attack": {"name": name}} | wrong)
    for steps in (3, 7):  # 7 is what other attacks have by default
        with pytest.raises(
            ArgumentError, match=rf"attack\.steps = {steps}: .*one step; leave it out, or take attack.name pgd"
        ):
            read_config({"attack": {"name": name, "steps": steps}})
    assert completed(read_config({"attack": {"name": name, "steps": 1}})).attack == own.attack
    with pytest.raises(ArgumentError, match=r"attack\.random_start.*starts at random"):
        read_config({"attack": {"name": name, "random_start": False}})


def history(robust: list[float], training: list[float]) -> list[RobustEpoch]:
    both = zip(robust, training, strict=True)
    return [RobustEpoch(epoch, r, t, 1.0) for epoch, (r, t) in enumerate(both, start=1)]


def warned(measured: list[RobustEpoch], validation: Validation = HELD) -> list[int]:
    return [last for last in range(1, len(measured) + 1) if due(measured[:last], validation)]


def test_a_collapse_is_warned_of_once():
    collapse = history([0.2, 0.3, 0.35, 0.02, 0.0, 0.36, 0.0], [0.3, 0.4, 0.45, 0.7, 0.9, 0.5, 0.9])
    assert warned(collapse) == [4]
    text = words(collapse[:4], HELD)
    assert "\n" not in text
    assert text.startswith(
        f"{NAME}: robust validation accuracy (PGD) fell from 35.0% after epoch 3 to 2.0% after epoch 4"
    )
    assert "rose from 45.0% to 70.0%" in text


def test_what_is_no_collapse_is_not_warned_of():
    assert warned(history([0.3, 0.35, 0.25, 0.2], [0.4, 0.5, 0.8, 0.9])) == []  # robust overfitting, a slow one
    assert warned(history([0.3, 0.35, 0.0], [0.4, 0.5, 0.3])) == []  # all is lost, on the training images too
    assert warned(history([0.0, 0.1, 0.2, 0.3], [0.9, 0.5, 0.5, 0.5])) == []
    few = Validation(10, 0.1)
    assert warned(history([0.3, 0.3, 0.1], [0.4, 0.5, 0.9]), few) == []  # ten images do not tell


@pytest.mark.parametrize(("steps", "warnings"), [(1, 1), (2, 0)])
def test_the_record_has_it_once(steps, warnings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from temper.runs.run import open_run

    settings = config(tmp_path / "run", attack={"name": "pgd", "steps": steps}, epochs=9)
    run = open_run(completed(read_config(settings)), resume=False, force=False)
    collapse = history([0.3, 0.35, 0.0, 0.0], [0.4, 0.5, 0.9, 0.9])
    for _ in range(2):  # as a run that is stopped and goes on tells it again
        watch = watching(Run(run.folder), EpsilonSchedule.fixed(), HELD)
        for epoch in range(1, 5):
            watch([0.6] * epoch, collapse[:epoch])
    assert [NAME in each for each in run.warnings] == [True] * warnings
    assert caplog.text.count(NAME) == warnings
    watch([0.6] * 4 + [0.1], collapse)  # that it does not learn any more is another thing
    assert len(run.warnings) == warnings + 1
