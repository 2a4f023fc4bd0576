"""Where published data sets lie."""

import os
from pathlib import Path

from temper.errors import DataError


class NotThereError(DataError):
    """A published set is not where it is looked for.

    Args:
        problem: which set, where, and why not.
        fix: what to do.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}: {fix}")
        self.problem = problem


def default_root() -> Path:
    """Where published sets are looked for: the environment variable TEMPER_DATA, else beside torch's hub folder."""
    named = os.environ.get("TEMPER_DATA")
    if named:
        return Path(named).expanduser()
    import torch

    return Path(torch.hub.get_dir()).parent / "datasets"
