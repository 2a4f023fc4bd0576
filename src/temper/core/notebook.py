"""What an object shows of itself in a notebook: plain elements, which the notebook styles as its own."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from temper.text import masked, printable

MOST = 20  # rows of a table


def page(title: str, facts: Sequence[str], head: Sequence[str] = (), rows: Iterable[Sequence[object]] = ()) -> str:
    """A title, facts, and a table of at most :data:`MOST` rows; every text may come from outside and is escaped."""
    parts = [Markup("<div><strong>{}</strong>").format(_text(title))]
    if facts:
        parts.append(Markup("<br>") + Markup("<br>").join(map(_text, facts)))
    given = list(rows)
    if given:
        lines = [*([_row("th", head)] if head else []), *(_row("td", row) for row in given[:MOST])]
        parts.append(Markup("<table>") + Markup("").join(lines) + Markup("</table>"))
    if len(given) > MOST:
        parts.append(Markup("and {} more").format(len(given) - MOST))
    return str(Markup("").join(parts) + Markup("</div>"))


def _row(kind: str, cells: Sequence[object]) -> Markup:
    tag = Markup(kind)
    return Markup("<tr>{}</tr>").format(
        Markup("").join(Markup("<{0}>{1}</{0}>").format(tag, _text(each)) for each in cells)
    )


def _text(value: object) -> Markup:
    return escape(printable(masked(str(value))))
