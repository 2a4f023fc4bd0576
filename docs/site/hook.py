"""Puts the repository's own pages into the site: at the paths that they have in the repository, so that their links to
one another are the same on both, and with the pictures and tables that they link to."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"]
HOME = "docs/index.md"

# [text](target) and ![text](target), where the target is a path; a title or an anchor may follow it.
_LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and what they link to that is no page."""
    files.remove(files.src_uris["hook.py"])
    pages = [ROOT / page for page in PAGES] + sorted((ROOT / "docs").glob("**/*.md"))
    linked = {path for page in pages for path in _linked(page) if path.is_file() and path.suffix != ".md"}
    for path in [*pages, *sorted(linked)]:
        uri = path.relative_to(ROOT).as_posix()
        to = "index.html" if uri == HOME else None
        files.append(File(uri, str(ROOT), config.site_dir, use_directory_urls=False, dest_uri=to))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Of a link to a folder, or to a page that the site has not, only the text is left; the README is the start."""
    here = ROOT / page.file.src_uri

    def mend(match: re.Match[str]) -> str:
        path = (here.parent / match[2]).resolve()
        if path == ROOT / "README.md":
            return f"[{match[1]}]({os.path.relpath(ROOT / HOME, here.parent)})"
        known = path.is_relative_to(ROOT) and path.relative_to(ROOT).as_posix() in files.src_uris
        return match[0] if known or not path.exists() else match[1]

    return _LINK.sub(mend, markdown)


def on_page_content(html: str, **_: object) -> str:
    """Of a docstring's role, as in :class:`Name`, the name is left."""
    return re.sub(r":(?:class|func|meth|mod|data|attr):(?=<code)", "", html)


def _linked(page: Path) -> Iterator[Path]:
    for _, target, _ in _LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        if path.is_relative_to(ROOT):
            yield path
