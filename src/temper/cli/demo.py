"""The demonstration: one small non-robust network, real images, three ways of fine-tuning, and what that shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from temper.cli.console import say, show_table
from temper.core.interrupt import Stopped
from temper.evaluation.measurement import TABLE
from temper.margins import EvidenceTable
from temper.margins.comparison import Changes, changes
from temper.margins.intervals import Estimate
from temper.runs import views
from temper.runs.finetune import finetune
from temper.runs.run import CONFIG, Run
from temper.threat import Threat
from temper.training.config import read_config

THREAT = Threat("Linf", 0.4)
STANDARD, FIXED, SCHEDULED = "standard", "fixed epsilon", "Epsilon-Scheduling"
WAYS = {
    STANDARD: {"objective": {"name": "standard"}},
    FIXED: {"objective": {"name": "at"}, "schedule": {"name": "fixed"}},
    SCHEDULED: {"objective": {"name": "at"}, "schedule": {"name": "hinge"}},
}
# As in the paper, the learning rate is the one at which *fixed* epsilon has the best clean accuracy on validation
# images, and is the same for all: benchmarks/demo/choose.py, which tried four on seeds that are not shown.
LEARNING_RATE = 1e-2
SETTINGS = {
    "eps": THREAT.eps,
    "epochs": 10,
    "batch_size": 64,
    "attack": {"name": "pgd", "steps": 5},
    "data": {"train": "mnist-5k", "train_limit": 1000, "augmentation": "none"},
    "model": {"image_size": 28},
    "optimiser": {"backbone_lr": LEARNING_RATE, "head_lr": LEARNING_RATE},
    "precision": "fp32",  # everyone sees the same, with half-precision hardware or without
}


@dataclass(frozen=True)
class Compared:
    """The three runs, by way, and paired changes on their common test images.

    Attributes:
        runs: finished, in the order of :data:`WAYS`.
        loss: from fixed epsilon to standard fine-tuning; its clean accuracy is the severity of suboptimal transfer.
        gain: from fixed epsilon to Epsilon-Scheduling.
    """

    runs: Mapping[str, Run]
    loss: Changes
    gain: Changes

    def results(self, way: str) -> dict[str, Estimate]:
        """What a run was measured at, name to estimate: clean and robust accuracy, expected robustness."""
        numbers = self.runs[way].record["results"].items()
        return {name: Estimate(**values) for name, values in numbers if "trapezoid" not in name}


def compare(out: Path, seed: int = 0, settings: Mapping[str, object] = SETTINGS) -> Compared:
    """Fine-tune in every way of :data:`WAYS` and measure; what ``out`` holds already is continued, or kept."""
    runs = {}
    for name, way in WAYS.items():
        folder = out / name.replace(" ", "-").lower()
        config = read_config({**settings, **way, "out": folder, "seed": seed})
        runs[name] = finetune(config, resume=(folder / CONFIG).exists())
    tables = {name: EvidenceTable.load(run.folder / TABLE) for name, run in runs.items()}
    return Compared(
        runs=runs,
        loss=changes(tables[FIXED], tables[STANDARD], THREAT),
        gain=changes(tables[FIXED], tables[SCHEDULED], THREAT),
    )


def demo(out: Path) -> Path:
    """Fine-tune the bundled network on handwritten digits three ways and compare; returns the report's path.

    Run again, it continues: finished runs are kept.
    """
    try:
        compared = compare(out)
    except Stopped:
        raise Stopped(f"{out}: stopped, everything is saved; run temper demo again to continue") from None
    results = {name: compared.results(name) for name in WAYS}
    words = verdict(compared)
    folders = [run.folder for run in compared.runs.values()]
    path = views.report(folders, out / views.REPORT, "Temper: three ways to fine-tune", lead=words)
    gains = dict(zip(results[FIXED], (compared.gain.clean, compared.gain.robust, compared.gain.expected), strict=True))
    show_table(
        "Handwritten digits, one non-robust network fine-tuned three ways",
        results | {"scheduled - fixed, paired": gains},
    )
    say(f"report: {path}", words)
    return path


def verdict(compared: Compared) -> str:
    """What was seen and what it means, whichever way it went: a difference is one if its paired interval says so."""
    standard, fixed, scheduled = ([each.value for each in compared.results(way).values()] for way in WAYS)
    loss, gain = compared.loss.clean, compared.gain
    fell = (
        f"With epsilon fixed, accuracy on clean images fell from {standard[0]:.1%} to {fixed[0]:.1%}: suboptimal transfer"
        if loss.low > 0
        else f"With epsilon fixed, accuracy on clean images was {fixed[0]:.1%}, not clearly below the {standard[0]:.1%}"
        " of standard fine-tuning: no suboptimal transfer was seen"
    )
    kept = _either(gain.clean, "kept more of it", "kept less of it", "did not clearly change that")
    average = _either(gain.expected, "more robust", "less robust", "not clearly more or less robust")
    full = _either(gain.robust, "more", "less", "not clearly more or less")
    cured = loss.low > 0 and gain.clean.low > 0 and gain.expected.low > 0
    return (
        f"{fell}. Epsilon-Scheduling {kept}: {scheduled[0]:.1%} ({_points(gain.clean)}). It is {average} on average over"
        f" all strengths up to {THREAT}: {scheduled[2]:.1%} against {fixed[2]:.1%} ({_points(gain.expected)}). At the"
        f" full strength it is {full} robust: {scheduled[1]:.1%} against {fixed[1]:.1%} ({_points(gain.robust)})."
        f" {'So the schedule cures what fixed epsilon spoils' if cured else 'So no cure was seen'}, in this run;"
        f" brackets are 95 % intervals, paired over the same {gain.clean.n:,} test images."
    )


def _either(change: Estimate, higher: str, lower: str, same: str) -> str:
    return higher if change.low > 0 else lower if change.high < 0 else same


def _points(change: Estimate) -> str:
    return f"{100 * change.value:+.1f} points [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
