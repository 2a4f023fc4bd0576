"""Which moment of a training is kept, and when it stops: rules, runs, and that a stop in between changes nothing."""

from pathlib import Path

import pytest
import torch

import tiny
from temper import models
from temper.attacks.attack import Problem, State, perturb
from temper.attacks.crafting import crafting
from temper.attacks.losses import predicted
from temper.attacks.pgd import PGD
from temper.core import randomness
from temper.core.interrupt import Stopped
from temper.data import Pixels
from temper.errors import ArgumentError
from temper.runs import finetune as finetuning
from temper.runs.finetune import finetune
from temper.runs.run import Run
from temper.training import inner_attacks, loop
from temper.training.checkpoints import Progress
from temper.training.config import FinetuneConfig, completed, read_config
from temper.training.passes import of_update
from temper.training.selection import RobustEpoch, best, due, spent
from temper.training.session import Session
from temper.training.splits import splits_of
from temper.training.trained import Passes
from tiny_runs import assert_same_weights, config, weights

CONSTANT = {"name": "custom", "function": "tiny:constant"}
MEASURED = {
    "data": {"validation_fraction": 0.06, "train_limit": 120, "augmentation": "none"},
    "eps": "4/255", "schedule": CONSTANT, "precision": "fp32", "batch_size": 60,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _tiny_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def measured(*accuracies: float, shares: tuple[float, ...] = ()) -> list[RobustEpoch]:
    """Measurements after the epochs from 1 on."""
    shares = shares or (1.0,) * len(accuracies)
    both = zip(accuracies, shares, strict=True)
    return [RobustEpoch(epoch, value, 0.5, share) for epoch, (value, share) in enumerate(both, start=1)]


def test_the_first_of_equals_is_the_best():
    assert best(measured(0.1, 0.3, 0.2, 0.3)).epoch == 2


def test_every_nth_epoch_is_measured_and_the_last():
    assert [epoch for epoch in range(1, 8) if due(epoch, 7, 3)] == [3, 6, 7]
    assert not any(due(epoch, 7, None) for epoch in range(1, 8))


def test_patience_counts_measurements_since_the_best():
    assert not spent([], 1, 1)
    assert not spent(measured(0.1, 0.3, 0.2), 1, 2)
    assert spent(measured(0.1, 0.3, 0.2, 0.3), 1, 2)
    assert not spent(measured(0.1, 0.3, 0.2, 0.4), 1, 2)


def test_patience_waits_for_the_whole_epsilon_and_the_last_phase():
    early = measured(0.3, 0.2, 0.1, 0.2, shares=(0, 0.5, 1, 1))
    assert not spent(early, 1, 3)
    assert spent(early, 1, 2)
    assert not spent(measured(0.3, 0.2, 0.1), 3, 2)


def test_what_needs_robust_accuracy_has_it_measured():
    for validation in ({"keep": "best"}, {"patience": 2}):
        assert completed(read_config({"validation": validation})).validation.robust_every == 1
    assert completed(FinetuneConfig()).validation.robust_every is None
    given = {"validation": {"keep": "best", "robust_every": 3}}
    assert completed(read_config(given)).validation.robust_every == 3


def test_without_an_epsilon_nothing_is_robust():
    with pytest.raises(ArgumentError, match=r"eps = 0.*robust accuracy"):
        read_config({"objective": {"name": "standard"}, "eps": 0, "validation": {"keep": "best"}})


def by_hand(classifier: models.Classifier, run: Run) -> float:
    """Share of the validation images that are right and stay so, attacked one by one."""
    held, settings = splits_of(run.config).validation, run.config
    pixels = Pixels(held, classifier.image_size, classifier.channels)
    right = 0
    with crafting(classifier) as model, torch.no_grad():
        for image, label, number in (pixels[place] for place in range(len(pixels))):
            x, y = image[None].float() / 255, torch.tensor([label])
            keys = randomness.sample_keys(settings.seed, torch.tensor([number]), "robust validation")
            moved = perturb(PGD(10), model, x, y, settings.eps, settings.norm, keys=keys)
            right += int((predicted(model(x)) == y).item() and (predicted(model(moved)) == y).item())
    return right / len(held)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_best_epochs_weights_are_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said to be best after its second epoch, a run is what it was then, averaged weights and all."""
    said = iter([0.1, 0.4, 0.3, 0.4])
    seen: list[tuple[float, dict[str, torch.Tensor]]] = []

    def saying(session: Session) -> float:
        seen.append((measure(session), {k: v.clone() for k, v in session.classifier.network.state_dict().items()}))
        return next(said)

    measure = loop.robust_accuracy
    monkeypatch.setattr(loop, "robust_accuracy", saying)
    settings = MEASURED | {"epochs": 4, "optimiser": {"ema": 0.5, "backbone_lr": 0.02, "head_lr": 0.02}}
    run = finetune(config(tmp_path / "run", **settings, validation={"keep": "best"}))
    assert run.trained is not None
    assert run.trained.kept == 2
    assert [row["robust_validation_accuracy"] for row in run.history()] == [0.1, 0.4, 0.3, 0.4]
    robust, state = seen[1]
    own = weights(run)
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], state[name]) for name in own)
    assert not all(torch.equal(own[name], seen[3][1][name]) for name in own)
    assert by_hand(models.load(run.folder), run) == pytest.approx(robust)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_measuring_changes_no_weight(tmp_path: Path) -> None:
    plain = finetune(config(tmp_path / "plain", **MEASURED))
    measuring = finetune(config(tmp_path / "measuring", **MEASURED, validation={"robust_every": 2}))
    assert_same_weights(plain, measuring)
    assert [row["epoch"] for row in measuring.history() if "robust_validation_accuracy" in row] == [2, 3]
    assert not any("robust_validation_accuracy" in row for row in plain.history())


@pytest.mark.slow
@pytest.mark.numerical
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("moment", [1.5, 2.0, 2.5])
def test_stopped_at_any_moment_it_ends_bit_identical(
    moment: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = MEASURED | {"epochs": 6, "validation": {"keep": "best", "patience": 1}}
    settings |= {"optimiser": {"backbone_lr": 0.05, "head_lr": 0.05, "ema": 0.9}}
    whole = finetune(config(tmp_path / "whole", **settings))
    assert whole.trained is not None
    assert 6 > whole.trained.epochs > moment  # it was stopped early, and there is something to interrupt

    def pressing(epoch: float, epochs: int) -> float:
        return tiny.interrupting(1.5, epochs) if epoch == moment else 1.0

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(tiny, "constant", pressing)
        finetune(config(tmp_path / "run", **settings))
    resumed = finetune(config(tmp_path / "run", **settings), resume=True)
    assert_same_weights(resumed, whole)
    assert resumed.record["trained"] == whole.record["trained"]
    assert resumed.delay == whole.delay


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_run_that_is_stopped_early_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing moves, so that the first measurement stays the best."""
    still = {"backbone_lr": 1e-12, "head_lr": 1e-12}
    settings = MEASURED | {"epochs": 9, "optimiser": still, "model": {"name": "tiny:plain"}}
    run = finetune(config(tmp_path / "run", **settings, validation={"patience": 2, "robust_every": 2}))
    assert [row["epoch"] for row in run.history()] == [1, 2, 3, 4, 5, 6]
    assert run.trained is not None
    assert (run.trained.epochs, run.trained.kept) == (6, 6)  # the last one's, as nobody asked for the best
    assert [each.epoch for each in run.trained.robust] == [2, 4, 6]
    assert run.delay is not None
    assert run.finished
    again = finetune(config(tmp_path / "run", **settings, validation={"patience": 2, "robust_every": 2}), resume=True)
    assert again.record == run.record


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_passes_are_those_that_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where they are made: forward in the network, backward in its last layer."""
    made = {"forward": 0, "backward": 0}
    forward = tiny.Tiny.forward

    def counting(self: tiny.Tiny, x: torch.Tensor) -> torch.Tensor:
        logits = forward(self, x)
        made["forward"] += len(x)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: made.update(backward=made["backward"] + len(gradient)))
        return logits

    monkeypatch.setattr(tiny.Tiny, "forward", counting)
    settings = MEASURED | {"model": {"name": "tiny:plain"}, "attack": {"name": "pgd", "steps": 3}, "epochs": 2}
    settings |= {"objective": {"name": "trades"}, "validation": {"robust_every": 2}}
    settings |= {"schedule": {"name": "abrupt", "start": 0.5}}
    monkeypatch.setattr(loop, "foldable", lambda *_: [])
    taken: list[int] = []

    def train(*arguments: object) -> Progress:
        made.update(forward=0, backward=0)
        ended = loop.train(*arguments)
        taken.extend(made.values())
        return ended

    monkeypatch.setattr(finetuning, "train", train)
    run = finetune(config(tmp_path / "run", **settings))
    took = run.trained
    assert took is not None
    n, held = len(splits_of(run.config).train), len(splits_of(run.config).validation)
    clean = 2 * held  # accuracy after each epoch
    total = Passes(taken[0] - clean, taken[1])
    assert total.forward == took.passes.forward + took.validation.forward
    assert total.backward == took.passes.backward + took.validation.backward
    # One of the four updates is of clean images; the schedule jumps at the end of the first epoch, before the second.
    assert took.passes == Passes(n / 2 + 1.5 * n * (3 + 2 + 1), n / 2 + 1.5 * n * (3 + 2))
    assert run.record["trained"]["passes_per_image"] == (2 + 3 * 11) / 4
    assert took.validation.backward > 0


def test_steps_follow_the_share_of_epsilon_in_force():
    assert [inner_attacks.steps_at(5, share) for share in (0.01, 0.2, 0.21, 0.6, 1)] == [1, 1, 2, 3, 5]
    own = {"attack": {"name": "pgd", "steps": 4, "steps_follow": True}}
    followed = completed(read_config(own))
    assert followed.attack.step_size is None  # 2.5 over the steps there are
    assert [of_update(followed, share).total for share in (0, 0.25, 0.5, 1)] == [2, 4, 6, 10]
    assert "steps_follow" not in FinetuneConfig().model_dump()["attack"]
    with pytest.raises(ArgumentError, match="has one step"):
        read_config({"attack": {"name": "n-fgsm", "steps_follow": True}})


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_attack_takes_the_steps_that_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, float]] = []
    attack = PGD.begin

    def noting(self: PGD, problem: Problem) -> State:
        taken.append((self.steps, float(problem.eps[0])))
        return attack(self, problem)

    monkeypatch.setattr(loop, "robust_accuracy", lambda session: 0.0)
    monkeypatch.setattr(PGD, "begin", noting)
    pgd = {"name": "pgd", "steps": 4, "steps_follow": True}
    settings = MEASURED | {"attack": pgd, "schedule": {"name": "linear", "end": 1}, "epochs": 2, "eps": 0.04}
    run = finetune(config(tmp_path / "run", **settings))
    assert [(steps, round(eps, 6)) for steps, eps in taken[:4]] == [(1, 0.01), (2, 0.02), (3, 0.03), (4, 0.04)]
    assert run.trained is not None
    assert run.trained.per_image == (4 + 6 + 8 + 10) / 4
