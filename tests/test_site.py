"""The site of the documentation has every page."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGES = sorted(ROOT.glob("docs/**/*.md"))
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def leaves(nav: object) -> Iterator[str]:
    """The pages of a menu, at any depth."""
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from leaves(each)


def anchor(heading: str) -> str:
    """What a heading is linked by."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_every_page_is_in_the_menu_once():
    named = [page for page in leaves(SETTINGS["nav"]) if page.startswith("docs/")]
    assert sorted(named) == [path.relative_to(ROOT).as_posix() for path in PAGES]


def test_what_the_menu_names_is_there():
    assert [page for page in leaves(SETTINGS["nav"]) if not (ROOT / page).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_of_a_page_lead_somewhere(page):
    lost = []
    for target, place in re.findall(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]+))?\)", page.read_text()):
        path = (page.parent / target).resolve() if target else page
        headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M) if place and path.exists() else []
        if not path.exists() or (place and place not in map(anchor, headings)):
            lost.append((target, place))
    assert lost == []
