"""Writing the site: index.html, results.csv, and a page per run."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from temper.benchmark.leaderboard.pages import index_page, run_page
from temper.benchmark.leaderboard.payload import to_csv
from temper.benchmark.leaderboard.view import Leaderboard, LeaderboardRun
from temper.core.files import written
from temper.errors import ArgumentError

_WRITERS = 4  # the disk confirms several small files in the time of one


def write_leaderboard(board: Leaderboard, folder: str | Path) -> Path:
    """Write the leaderboard as a static site that works from a file system, a web server, or an object store.

    ``index.html`` needs no other file; ``runs/RUN.html`` is a page per run and ``results.csv`` has all numbers. The
    same board gives the same bytes. Each file is whole or not there; the index comes last, so that its links work.
    Pages of runs that an earlier board had and this one has not are left.

    Args:
        board: what to show.
        folder: made if need be; files of the same names are replaced.

    Returns:
        The path of the index.

    Raises:
        ArgumentError: when the folder cannot be written.
        OSError: when the disk is full.
    """
    folder = Path(folder)
    try:
        with ThreadPoolExecutor(_WRITERS) as writers:
            tasks = [writers.submit(_write_run, board, run, folder / "runs") for run in board.runs if run.run]
            for task in tasks:
                task.result()
        _write(folder / "results.csv", to_csv(board))
        _write(folder / "index.html", index_page(board))
    except OSError as error:
        if error.errno == errno.ENOSPC:  # a full disk is no fault of the folder
            raise
        fix = f"the leaderboard cannot be written here ({error.strerror}); name a folder you can write to"
        raise ArgumentError("folder", str(folder), fix) from error
    return folder / "index.html"


def _write_run(board: Leaderboard, run: LeaderboardRun, folder: Path) -> None:
    _write(folder / f"{run.run}.html", run_page(board, run))


def _write(path: Path, text: str) -> None:
    with written(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")
