"""The plan of the house, docs/architecture.md: rooms know those below them alone, and no two files know each other."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {path.name for path in (ROOT / "src/temper").iterdir() if (path / "__init__.py").exists()}


def held(place: Path, sources: Path) -> bool:
    """Whether the plan of ``place`` is kept by the package in ``sources``."""
    lint = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    run = [sys.executable, "-c", lint]
    return subprocess.run(run, cwd=place, env=os.environ | {"PYTHONPATH": str(sources)}, check=False).returncode == 0


def test_the_plan_holds():
    assert held(ROOT, ROOT / "src")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("core/files.py", "import temper.data.root\n"),
        ("margins/table.py", "from temper.evaluation import measurement\n"),
        ("data/root.py", "from temper.data.catalogue import CATALOGUE\n"),
        ("attic.py", "\n"),
    ],
    ids=["up a room", "up several", "a circle of files", "a room that the plan lacks"],
)
def test_what_breaks_the_plan_is_found(tmp_path, file, line):
    shutil.copytree(ROOT / "src/temper", tmp_path / "temper", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "temper" / file).open("a") as source:
        source.write(line)
    assert not held(tmp_path, tmp_path)


def test_the_page_names_every_room_and_no_other():
    page = (ROOT / "docs/architecture.md").read_text()
    assert set(re.findall(r"^\| `(\w+)/` \|", page, re.M)) == ROOMS
