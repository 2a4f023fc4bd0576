"""The demonstration: one small non-robust network, real images, three ways of fine-tuning."""

from collections.abc import Mapping
from pathlib import Path

from temper.cli.console import say, show_table
from temper.core.interrupt import Stopped
from temper.margins.intervals import Estimate
from temper.runs import views
from temper.runs.finetune import finetune
from temper.runs.run import CONFIG
from temper.training.config import read_config

EPS = 24 / 255
EPOCHS = 12
WAYS = {
    "standard": {"objective": {"name": "standard"}},
    "fixed epsilon": {"objective": {"name": "at"}, "schedule": {"name": "fixed"}},
    "Epsilon-Scheduling": {"objective": {"name": "at"}, "schedule": {"name": "hinge"}},
}


def demo(out: Path) -> Path:
    """Fine-tune the bundled network on scikit-learn's digits three ways and compare; returns the report's path.

    Run again, it continues: finished runs are kept.
    """
    runs = []
    for name, way in WAYS.items():
        folder = out / name.replace(" ", "-").lower()
        config = read_config(
            {
                "out": folder,
                "eps": EPS,
                "epochs": EPOCHS,
                "batch_size": 64,
                "attack": {"name": "pgd", "steps": 5},
                "data": {"augmentation": "none"},
                **way,
            }
        )
        try:
            runs.append(finetune(config, resume=(folder / CONFIG).exists()))
        except Stopped:
            raise Stopped(f"{out}: stopped, everything is saved; run temper demo again to continue") from None
    path = views.report([run.folder for run in runs], out / views.REPORT, "Temper: three ways to fine-tune")
    results = {
        name: {quantity: Estimate(**numbers) for quantity, numbers in run.record["results"].items()}
        for name, run in zip(WAYS, runs, strict=True)
    }
    show_table("Handwritten digits, one non-robust network fine-tuned three ways", results)
    say(verdict(results["fixed epsilon"], results["Epsilon-Scheduling"]), f"report: {path}")
    return path


def verdict(fixed: Mapping[str, Estimate], scheduled: Mapping[str, Estimate]) -> str:
    """What the schedule changed, in points, whichever way it went."""
    changes = [
        f"{quantity} {100 * (scheduled[quantity].value - fixed[quantity].value):+.1f}"
        for quantity in fixed
        if "trapezoid" not in quantity
    ]
    return f"Epsilon-Scheduling against fixed epsilon, in points: {'; '.join(changes)}."
