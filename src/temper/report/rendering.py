"""Pages from Jinja2 templates: nothing that they are given is HTML, and credentials in it are hidden."""

import html
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from temper.text import masked


@cache
def environment(*packages: str) -> Environment:
    """The templates of these packages (their folders ``templates``), which may build on those of the report."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "temper.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["breakable"] = _breakable
    return made


def _escaped(value: object) -> object:
    """What a page shows of a value: text is masked before it is escaped, for a credential may end at a quote."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return Markup(html.escape(masked(value)))
    return value


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line after each of its underscores."""
    return Markup(html.escape(masked(name)).replace("_", "_<wbr>"))
