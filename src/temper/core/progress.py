"""Progress bars on stderr, where a person is looking; nothing where the output goes to a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar(Protocol):
    """What work reports to."""

    def advance(self, note: str = "", by: float = 1) -> None:
        """Some more is done; ``note`` says how it stands."""


class _RichBar:
    def __init__(self, progress: Progress, description: str, total: int, done: int) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, completed=done, note="")

    def advance(self, note: str = "", by: float = 1) -> None:
        self._progress.update(self._task, advance=by, note=note)


class _NoBar:
    def advance(self, note: str = "", by: float = 1) -> None:
        pass


@contextmanager
def progress_bar(description: str, total: int, done: int = 0, *, enabled: bool = True) -> Iterator[Bar]:
    """A bar from ``done`` to ``total``; it stays silent unless stderr is a terminal."""
    console = Console(stderr=True)
    if not enabled or not console.is_terminal:
        yield _NoBar()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console) as progress:
        yield _RichBar(progress, description, total, done)
