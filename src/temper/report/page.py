"""The report as one HTML file that needs nothing else: no network, no scripts, figures and images inside."""

from collections.abc import Sequence
from pathlib import Path

from temper.core.files import WRONG_PLACE, written
from temper.errors import ArgumentError
from temper.report.content import page_of
from temper.report.rendering import environment
from temper.report.views import RunView


def write_report(views: Sequence[RunView], path: str | Path, *, title: str, lead: str = "") -> Path:
    """Write one self-contained HTML file about one run or a comparison of several.

    Parts that no view has (samples, history, curves ...) are left out.

    Args:
        views: the runs, in order of display; their names must differ.
        path: the file to write, whole or not at all; an existing one is replaced.
        title: heading of the page.
        lead: what the page shows, in words, at its head; empty for none.

    Returns:
        The path written.

    Raises:
        ArgumentError: when there are no views, two have one name, or the path cannot be written.
        OSError: when the disk is full.
    """
    if not views:
        raise ArgumentError("views", [], "a report needs at least one run")
    names = [view.name for view in views]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError("views", names, f"two runs are named {name!r}: give each a name of its own")
    path = Path(path)
    text = environment().get_template("report.html").render(page=page_of(views, title, lead))
    try:
        with written(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    except OSError as error:
        if error.errno not in WRONG_PLACE:  # a full disk is no fault of the path
            raise
        fix = f"the report cannot be written here ({error.strerror}); name a file in a folder you can write to"
        raise ArgumentError("path", str(path), fix) from error
    return path
