"""Text from outside (names, paths, values, addresses), made fit to be shown: nothing that a terminal or a spreadsheet
obeys, and no credentials."""

import difflib
import re
from collections.abc import Iterable, Sequence

LONGEST = 200  # characters of a value in a message; more would bury what is wrong with it

# scheme://NAME:SECRET@ or scheme://TOKEN@; a secret may hold a slash, so after a colon everything up to the last @ is
# hidden. Of a query, what is called a token, secret, signature or key.
_USER = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/@:'\"]*:[^\s'\"]*|[^\s/@'\"]*)@")
_SIGNED = re.compile(r"([?&][^\s=&]*(?:token|secret|password|signature|key)[^\s=&]*=)[^\s&'\"]+", re.IGNORECASE)

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # but a line end, which a cell may hold

# What spreadsheets take for a formula, or skip on the way to one (OWASP, "CSV injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def masked(text: str) -> str:
    """The text without user names, passwords and tokens of addresses: ``s3://KEY:SECRET@bucket`` is ``s3://***@bucket``."""
    return _SIGNED.sub(r"\1***", _USER.sub(r"\1***@", text))


def first_line(error: BaseException) -> str:
    """Of what an error says; other programs' errors may go on for pages."""
    return str(error).strip().partition("\n")[0]


def printable(text: str, keep: str = "") -> str:
    """The text with everything that is no visible character or space written as an escape, as ``\\x1b``.

    Args:
        text: may hold control characters, line ends, and bytes that are no text (surrogates, as in file names).
        keep: characters that stay as they are.
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text
    )


def one_line(text: str) -> str:
    """A message as one line for a terminal or a log: printable, and without credentials."""
    return printable(masked(" ".join(line.strip() for line in text.splitlines() if line.strip())))


def shown(value: object) -> str:
    """A value as messages show it: its ``repr`` without credentials, cut where it is long."""
    text = masked(repr(value))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def listed(names: Sequence[str], most: int = 3, separator: str = ", ") -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def nearest(word: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Known names that are spelt much like a word, the likest first; upper and lower case are the same."""
    by_lower = {name.lower(): name for name in known}
    return [by_lower[name] for name in difflib.get_close_matches(word.lower(), by_lower, most, cutoff)]


def did_you_mean(names: Sequence[str], otherwise: str = "") -> str:
    """The question that ends a message about a name that is not known, or ``otherwise`` where no name is near."""
    return f"did you mean {' or '.join(names)}?" if names else otherwise


def cell(value: object) -> object:
    """A value for a CSV file: text that a spreadsheet would take for a formula gets a quote in front, and
    control characters are written as escapes; numbers, and text that is one, stay as they are."""
    if not isinstance(value, str):
        return value
    text = _CONTROL.sub(lambda match: printable(match[0]), masked(value))
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def path_cell(path: str) -> str:
    """A path for a CSV file: of the same file, and nothing that a spreadsheet would take for a formula."""
    return f"./{path}" if path.startswith(_FORMULA) else path


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
