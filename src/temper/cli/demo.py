"""The demonstration: one small non-robust network, real images, three ways of fine-tuning, and what that shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from temper.cli.console import say, show_table
from temper.core.files import check_writable
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

THREAT = Threat("Linf", 115 / 255)
STANDARD, FIXED, SCHEDULED = "standard", "fixed epsilon", "Epsilon-Scheduling"
WAYS = {
    STANDARD: {"objective": {"name": "standard"}},
    FIXED: {"objective": {"name": "at"}, "schedule": {"name": "fixed"}},
    SCHEDULED: {"objective": {"name": "at"}, "schedule": {"name": "hinge"}},
}
# The one at which *fixed* epsilon has the highest expected robustness on validation images, the same for all ways:
# benchmarks/demo/demo_settings.py, which tried some on seeds that are not shown.
LEARNING_RATE = 1e-2
SETTINGS = {
    "eps": THREAT.eps,
    "epochs": 15,
    "batch_size": 64,
    "attack": {"name": "pgd", "steps": 5},
    "data": {"train": "mnist-5k", "train_limit": 1500, "augmentation": "none"},
    "model": {"image_size": 28},
    "optimiser": {"backbone_lr": LEARNING_RATE, "head_lr": LEARNING_RATE},
    "precision": "fp32",  # what was measured over seeds, with half-precision hardware too
}


@dataclass(frozen=True)
class Compared:
    """The three runs, measured on the same test images.

    Attributes:
        folders: by way, in the order of :data:`WAYS`.
        results: by way, name to estimate: clean accuracy, robust accuracy at :data:`THREAT`, expected robustness up
            to it.
        loss: paired changes from fixed epsilon to standard fine-tuning; that of clean accuracy is the severity of
            suboptimal transfer.
        gain: paired changes from fixed epsilon to Epsilon-Scheduling.
    """

    folders: Mapping[str, Path]
    results: Mapping[str, Mapping[str, Estimate]]
    loss: Changes
    gain: Changes


def compare(out: Path, seed: int = 0) -> Compared:
    """Fine-tune in every way of :data:`WAYS` and measure; what ``out`` holds already is continued, or kept."""
    runs = {}
    for name, way in WAYS.items():
        folder = out / name.replace(" ", "-").lower()
        config = read_config({**SETTINGS, **way, "out": folder, "seed": seed})
        runs[name] = finetune(config, resume=(folder / CONFIG).exists())
    tables = {name: EvidenceTable.load(run.folder / TABLE) for name, run in runs.items()}
    return Compared(
        folders={name: run.folder for name, run in runs.items()},
        results={name: _measured(run) for name, run in runs.items()},
        loss=changes(tables[FIXED], tables[STANDARD], THREAT),
        gain=changes(tables[FIXED], tables[SCHEDULED], THREAT),
    )


def _measured(run: Run) -> dict[str, Estimate]:
    numbers = run.record["results"].items()
    return {name: Estimate(**values) for name, values in numbers if "trapezoid" not in name}


def demo(out: Path) -> Path:
    """Fine-tune the bundled network on handwritten digits three ways and compare; returns the report's path.

    Run again, it continues: finished runs are kept.
    """
    check_writable(out, "out")
    try:
        compared = compare(out)
    except Stopped:
        raise Stopped(f"{out}: stopped, everything is saved; run temper demo again to continue") from None
    words = verdict(compared)
    path = views.report([*compared.folders.values()], out / views.REPORT, "Temper: three ways to fine-tune", lead=words)
    show_table("Handwritten digits, one non-robust network fine-tuned three ways", compared.results)
    say(f"report: {path}", words)
    return path


def verdict(compared: Compared) -> str:
    """What was seen and what it means, whichever way it went: a difference is one where its paired interval says so."""
    standard, fixed, scheduled = ([each.value for each in compared.results[way].values()] for way in WAYS)
    suffers, gain = compared.loss.clean.low > 0, compared.gain
    transfer = (
        f"fell from {standard[0]:.1%} to {fixed[0]:.1%}: suboptimal transfer"
        if suffers
        else f"was {fixed[0]:.1%}, not clearly below the {standard[0]:.1%} of standard fine-tuning"
    )
    clean = _either(gain.clean, "kept", "fell further, to", "came to about the same,")
    average = _either(gain.expected, "more robust", "less robust", "about as robust")
    full = _either(gain.robust, "more robust", "less robust", "about as robust")
    meaning = "no cure was seen"
    if suffers and gain.clean.low > 0 and gain.expected.low > 0:
        won = gain.clean.value / compared.loss.clean.value
        meaning = (
            f"the schedule cured the transfer: it won back {won:.0%} of the clean accuracy that fixed epsilon lost"
        )
        meaning += ", at a price at the full strength" if gain.robust.high < 0 else ""
    return (
        f"With epsilon fixed, accuracy on clean images {transfer}. Epsilon-Scheduling {clean} {scheduled[0]:.1%}"
        f" ({gain.clean.in_points('+')}). On average over all strengths up to {THREAT} it is {average}:"
        f" {scheduled[2]:.1%} against {fixed[2]:.1%} ({gain.expected.in_points('+')}); at the full strength {full}:"
        f" {scheduled[1]:.1%} against {fixed[1]:.1%} ({gain.robust.in_points('+')}). Here {meaning}. In brackets: 95 %"
        f" intervals, paired over the same {gain.clean.n:,} test images."
    )


def _either(change: Estimate, higher: str, lower: str, same: str) -> str:
    """What a change is called by where its interval lies."""
    return higher if change.low > 0 else lower if change.high < 0 else same
