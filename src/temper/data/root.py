"""Where published data sets lie."""

import os
from pathlib import Path


def default_root() -> Path:
    """Where published sets are looked for: the environment variable TEMPER_DATA, else beside torch's hub folder."""
    named = os.environ.get("TEMPER_DATA")
    if named:
        return Path(named).expanduser()
    import torch

    return Path(torch.hub.get_dir()).parent / "datasets"
