"""How many CPU threads compute. Sums are rounded in another order on another number of them, so a number that is to
come out bit for bit the same again is computed on as many."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Compute on so many threads, and on as many as before afterwards; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
