"""What the guides for developers name is there."""

import re
from importlib import import_module
from pathlib import Path

import pytest

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
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *SOURCE.rglob("*.py")]
    named = {name for path in texts for name in re.findall(r"(?<![\w/.@-])temper(?:\.[A-Za-z_]\w*)+", path.read_text())}
    named.remove("temper.json")  # a file inside an exported one
    assert len(named) > 100
    assert sorted(name for name in named if not resolves(name)) == []
