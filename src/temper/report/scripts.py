"""What a page runs, and the data that it runs on: inside the page, so that it loads nothing."""

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from markupsafe import Markup

from temper.text import masked


@dataclass(frozen=True)
class Script:
    """What a page runs; its digest is all that the page's content security policy lets run."""

    text: Markup
    digest: str


@cache
def script(package: str, *names: str) -> Script:
    """These files of a package, after ``plot.js``, which draws charts for all pages."""
    files = [resources.files(__package__).joinpath("plot.js"), *map(resources.files(package).joinpath, names)]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    return Script(Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


def in_script(content: object) -> Markup:
    """JSON that may stand in an HTML script element, whatever its strings say."""
    text = masked(json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
