"""What can be added to training, each in a whole run: stopped and resumed, it ends bit for bit as if it had not been;
two processes give what one gives; and it does what it is for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from temper import models
from temper.core.interrupt import Stopped
from temper.runs.finetune import finetune, train_only
from temper.runs.run import Run
from temper.threat import Threat
from temper.training import crafter, validation
from temper.training.checkpoints import Checkpoint, last_checkpoint, load_checkpoint
from temper.training.config import read_config
from temper.training.norms import drawn
from tiny_runs import assert_nearly_same_training, assert_same_weights, config, steps, weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

#: Every piece, by what it adds to the configuration.
PIECES: dict[str, dict[str, object]] = {
    "swa": {"optimiser": {"swa": 0.3}},
    "awp": {"optimiser": {"awp": 0.02, "awp_warmup": 0.2}},
    "e-at": {"norm": "Linf,L1", "eps": "16/255,6"},
    "max": {"norm": "Linf,L1", "eps": "16/255,6", "attack": {"union": "max"}, "objective": {"name": "trades"}},
    "avg": {"norm": "Linf,L1", "eps": "16/255,6", "attack": {"union": "avg"}, "optimiser": {"awp": 0.02}},
    "awp in parts": {"optimiser": {"awp": 0.02}, "objective": {"name": "trades"}, "micro_batch": 7},
    "n-fgsm": {"attack": {"name": "n-fgsm", "steps": 1}},  # robust accuracy on the validation images, too
}
#: Those that are stopped and resumed alone.
STOPPED = PIECES | {
    "awp in bf16": {"optimiser": {"awp": 0.02, "awp_warmup": 0.2}, "precision": "bf16"},
    "linear_lr": {"protocol": {"name": "linear-then-full", "linear_share": 0.67, "linear_lr": 0.05}},
}


@pytest.fixture(autouse=True)
def _tiny_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def attacked(out: Path, **changes: object) -> dict[str, object]:
    """A run with the whole epsilon throughout."""
    return config(out, schedule={"name": "custom", "function": "tiny:constant"}, **changes)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without any piece."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        return finetune(attacked(tmp_path_factory.mktemp("plain") / "run"))


@pytest.mark.numerical
@pytest.mark.parametrize("piece", STOPPED)
def test_stopped_and_resumed_it_ends_bit_identical(piece: str, tmp_path: Path, plain: Run) -> None:
    own = STOPPED[piece]
    whole = finetune(attacked(tmp_path / "whole", **own))
    assert any(not torch.equal(value, weights(plain)[name]) for name, value in weights(whole).items())
    with pytest.raises(Stopped, match="--resume continues"):
        finetune(config(tmp_path / "run", schedule={"name": "custom", "function": "tiny:interrupting"}, **own))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "interrupting", tiny.constant)
        resumed = finetune(
            config(tmp_path / "run", schedule={"name": "custom", "function": "tiny:interrupting"}, **own), resume=True
        )
    assert_same_weights(resumed, whole)
    assert steps(resumed) == steps(whole)
    assert resumed.trained == whole.trained


@pytest.mark.numerical
@pytest.mark.usefixtures("warm_processes")
@pytest.mark.parametrize("piece", PIECES)
def test_two_processes_give_what_one_gives(piece: str, tmp_path: Path) -> None:
    # bf16 rounds the same sums differently in another order, on machines that compute it.
    same: dict[str, object] = {"model": {"name": "tiny:plain", "image_size": 8}, "epochs": 2, "precision": "fp32"}
    one = finetune(attacked(tmp_path / "one", **same, **PIECES[piece]))
    two = finetune(attacked(tmp_path / "two", **same, **PIECES[piece], devices=2))
    assert_nearly_same_training(one, two)
    assert one.trained is not None
    assert two.trained is not None
    assert [each.epoch for each in two.trained.robust] == [each.epoch for each in one.trained.robust]
    held = one.record["data"]["validation"]["n"]  # of which one may lie at the boundary
    for mine, theirs in zip(two.trained.robust, one.trained.robust, strict=True):
        assert mine.validation == pytest.approx(theirs.validation, abs=1.01 / held)


def test_training_in_a_single_step_costs_what_it_says(tmp_path: Path) -> None:
    """An update and one step of the attack; robust accuracy is measured after every epoch without being asked for."""
    run = train_only(read_config(attacked(tmp_path / "run", **PIECES["n-fgsm"])))
    assert run.trained is not None
    assert (run.trained.passes.forward, run.trained.passes.backward) == (3 * 90 * 2, 3 * 90 * 2)
    assert [each.epoch for each in run.trained.robust] == [1, 2, 3]
    assert run.trained.validation.total > 0


def test_the_average_of_the_epochs_is_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Run
) -> None:
    """Of 3 epochs, the last two; training itself is untouched by it."""
    ends: list[dict[str, torch.Tensor]] = []

    def kept(folder: Path, checkpoint: Checkpoint) -> Path:
        path = save(folder, checkpoint)
        if checkpoint.progress.step % 3 == 0:
            ends.append(load_file(path / "model.safetensors"))
        return path

    from temper.training import loop

    save = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", kept)
    run = finetune(attacked(tmp_path / "run", optimiser={"swa": 0.4}))
    assert [row["loss"] for row in steps(run)] == [row["loss"] for row in steps(plain)]
    name = "network.conv.weight"
    assert len(ends) == 3
    saved = models.load(run.folder).state_dict()
    torch.testing.assert_close(saved[name], (ends[1][name] + ends[2][name]) / 2)
    newest = last_checkpoint(run.folder / "checkpoints")
    assert newest is not None
    assert torch.equal(load_file(newest / "average.safetensors")[name], saved[name])
    # Statistics of the averaged weights, not those of the last ones: three batches, each counted once.
    assert saved["network.norm.num_batches_tracked"] == 3
    assert not torch.equal(saved["network.norm.running_mean"], ends[2]["network.norm.running_mean"])


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_weight_perturbation_costs_a_pass_more_and_no_attack(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, passed = tiny.Tiny.forward, {True: 0, False: 0}

    def counted(self: tiny.Tiny, x: torch.Tensor) -> torch.Tensor:
        passed[self.training] += len(x)
        return forward(self, x)

    def images(name: str, **optimiser: float) -> tuple[int, int]:
        """That pass in train mode, and as attacks and validation see the model."""
        passed.update({True: 0, False: 0})
        settings = attacked(tmp_path / name, objective={"name": objective}, epochs=1, optimiser=optimiser)
        train_only(read_config(settings))
        return passed[True], passed[False]

    monkeypatch.setattr(tiny.Tiny, "forward", counted)
    without, perturbed = images("without"), images("with", awp=0.01, awp_warmup=0)
    once = 90 * (2 if objective == "trades" else 1)
    assert perturbed == (without[0] + once, without[1])
    assert images("late", awp=0.01, awp_warmup=0.6)[0] == without[0] + once // 3  # the last of three updates


NORMS = {"norm": "Linf,L1", "eps": "16/255,6"}


def test_each_batch_is_attacked_in_a_norm_that_is_drawn_by_its_errors(tmp_path: Path) -> None:
    run = finetune(attacked(tmp_path / "run", epochs=6, **NORMS))
    rows, counts = steps(run), {"Linf": [0, 0], "L1": [0, 0]}
    for row in rows:
        assert (
            row["norm"] == drawn(run.config.threats, {k: v for k, v in counts.items() if v[0]}, 0, row["step"] - 1).norm
        )
        counts[row["norm"]][0] += 30
        counts[row["norm"]][1] += round(30 * (1 - row["accuracy"]))
    assert {row["norm"] for row in rows} == {"Linf", "L1"}
    newest = last_checkpoint(run.folder / "checkpoints")
    assert newest is not None
    assert load_checkpoint(newest).progress.attacked == counts


def test_robust_validation_is_in_every_norm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that does nothing in the one norm, and in the other makes all images alike: few stay right."""
    asked: list[str] = []

    def attack(
        _: object, model: object, x: torch.Tensor, y: torch.Tensor, eps: float, norm: str, **given: object
    ) -> torch.Tensor:
        asked.append(norm)
        return x if norm == "Linf" else torch.zeros_like(x)

    monkeypatch.setattr(validation, "perturb", attack)
    settings = attacked(tmp_path / "run", epochs=4, **NORMS, validation={"robust_every": 4})
    run = train_only(read_config(settings | {"attack": {"name": "pgd", "steps": 1}, "eps": "1/255,0.1"}))
    assert sorted(set(asked)) == ["L1", "Linf"]
    assert run.trained is not None
    (measured,) = run.trained.robust
    assert measured.validation < 0.5 * run.history()[-1]["validation_accuracy"]
    # One step of PGD in the one norm that is drawn, and the update.
    assert run.trained.passes.forward == run.trained.passes.backward == 4 * 90 * 2


def test_a_run_in_several_norms_is_measured_in_each_and_in_all(tmp_path: Path) -> None:
    run = finetune(attacked(tmp_path / "run", epochs=1, **NORMS))
    results = run.record["results"]
    shares = [results[f"robust accuracy at {threat}"]["value"] for threat in ("Linf:16/255", "L1:6")]
    union = results["robust accuracy at L1:6, Linf:16/255 at once"]["value"]
    assert max(sum(shares) - 1, 0) <= union <= min(shares)
    page = (run.folder / "report.html").read_text()
    for words in ("Linf 16/255 and L1 6", "e-at", "robust accuracy at L1:6, Linf:16/255 at once"):
        assert words in page


def recorded(seen: list[tuple[str, float]], attack: Callable[..., torch.Tensor], *given: object) -> torch.Tensor:
    """Attack, and remember the norm and the radius."""
    threat = given[3]
    assert isinstance(threat, Threat)
    seen.append((threat.norm, threat.eps))
    return attack(*given)


def test_the_schedule_scales_every_radius(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []
    monkeypatch.setattr(crafter, "inner_attack", partial(recorded, seen, crafter.inner_attack))
    settings = config(tmp_path / "run", schedule={"name": "linear", "end": 1.0}, **NORMS, attack={"union": "max"})
    train_only(read_config(settings))
    shares = [(k + 1) / 9 for k in range(9)]
    assert [eps for norm, eps in seen if norm == "Linf"] == pytest.approx([share * 16 / 255 for share in shares])
    assert [eps for norm, eps in seen if norm == "L1"] == pytest.approx([share * 6 for share in shares])
