"""What the guides for developers name is there."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from temper.core.calls import options
from wrong_calls import commands

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/temper"
GUIDES = ["CONTRIBUTING.md", "docs/architecture.md"]


def quoted(guide: str, pattern: str) -> set[str]:
    return set(re.findall(rf"`({pattern})`", (ROOT / guide).read_text()))


@pytest.mark.parametrize("guide", GUIDES)
def test_files_that_a_guide_names_exist(guide):
    named = {name for name in quoted(guide, r"[\w/]+\.py|[\w/]+/") if "NAME" not in name}
    assert len(named) > 10
    there = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("src/temper/**/*") if path.name != "__pycache__"]
    there += [path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/*.py")]
    missing = [name for name in named if not any(f"/{path}".endswith(f"/{name.rstrip('/')}") for path in there)]
    assert missing == []


@pytest.mark.parametrize("guide", GUIDES)
def test_tables_that_a_guide_names_exist(guide):
    tables = quoted(guide, r"[A-Z][A-Z_]{4,}")
    assert len(tables) > 4
    code = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))
    assert [name for name in tables if not re.search(rf"^{name}\b.* = ", code, re.M)] == []


@pytest.mark.parametrize("guide", GUIDES)
def test_links_of_a_guide_lead_somewhere(guide):
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / guide).read_text())
    assert links
    assert [link for link in links if not ((ROOT / guide).parent / link).exists()] == []


def resolves(name: str) -> bool:
    """Whether a dotted name of Temper's leads to something: a module, or what one has at any depth."""
    module, _, attribute = name.rpartition(".")
    try:
        import_module(name)
    except ImportError:
        return resolves(module) and hasattr(value_of(module), attribute)
    return True


def value_of(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    try:
        return import_module(name)
    except ImportError:
        return getattr(value_of(module), attribute)


@pytest.mark.slow
def test_names_of_temper_in_guides_and_docstrings_exist():
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *SOURCE.rglob("*.py")]
    named = {name for path in texts for name in re.findall(r"(?<![\w/.@-])temper(?:\.[A-Za-z_]\w*)+", path.read_text())}
    named.remove("temper.json")  # a file inside an exported one
    assert len(named) > 100
    assert sorted(name for name in named if not resolves(name)) == []


# Options of other programs that guides name.
OTHERS = {"--gpus-per-task", "--signal=INT@120", "--num-cpus", "--data"}


def test_options_that_guides_name_in_passing_exist():
    known = {name: {f"--{option.name}" for option in options(command)} for name, command in commands().items()}
    anywhere = set().union(*known.values()) | OTHERS
    unknown = []
    for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")):
        text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
        for words in map(str.split, re.findall(r"`((?:temper |--)[^`]+)`", text)):
            bench = words[:2] == ["temper", "bench"]
            command = " ".join(words[1:3] if bench else words[1:2]) if words[0] == "temper" else ""
            offered = known.get(command, anywhere) | {"--help", "--version"}
            unknown += [(path.name, command, word) for word in words if word[:2] == "--" and word not in offered]
    assert unknown == []
