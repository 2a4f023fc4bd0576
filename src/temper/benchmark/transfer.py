"""Severity of suboptimal transfer in a grid: clean accuracy lost against standard fine-tuning (arXiv:2509.23325)."""

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd

from temper.benchmark.columns import SEVERITY, as_columns, from_columns, names
from temper.benchmark.store import RUN_DONE
from temper.margins.intervals import Estimate
from temper.training.objectives import OBJECTIVES
from temper.training.transfer import severity, task

#: Columns of result rows that a severity follows from.
NEEDED = ("run", "status", "config", "data", "objective", *names("clean"))


def with_severity(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, with the severity of those beside which there is one of standard fine-tuning.

    That is a run of the same backbone, data, protocol, epochs and seed with an objective that attacks nothing, measured
    on the same test images; epsilon and schedule are nothing to it, so one serves every cell that differs in them. It
    has no severity itself.

    Args:
        rows: result rows, with the columns :data:`NEEDED`.
    """
    if not {*NEEDED} <= {*rows.columns}:
        return rows
    done = rows[(rows["status"] == RUN_DONE) & rows["clean"].notna()]
    tasks = {row["run"]: (task(json.loads(row["config"])), row["data"]) for _, row in done.iterrows()}
    attacked = {name: objective.attacked for name, objective in OBJECTIVES.items()}
    standard = {tasks[row["run"]]: row for _, row in done.iterrows() if not attacked.get(row["objective"], True)}

    def found() -> Iterator[tuple[str, Estimate]]:
        for _, row in done.iterrows():
            if attacked.get(row["objective"], True) and tasks[row["run"]] in standard:
                other = standard[tasks[row["run"]]]
                yield row["run"], severity(from_columns("clean", other), from_columns("clean", row))

    lost = pd.DataFrame([{"run": run, **as_columns(SEVERITY, estimate)} for run, estimate in found()])
    if lost.empty:
        return rows.assign(**dict.fromkeys(names(SEVERITY), np.nan))
    return rows.drop(columns=names(SEVERITY), errors="ignore").merge(lost, on="run", how="left")
