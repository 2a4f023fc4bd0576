"""What is uploaded: names, files and papers."""

import re
import tomllib
from pathlib import Path

import yaml

from temper import distribution

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_place_names_the_distribution_that_is_uploaded():
    assert PROJECT["project"]["name"] == distribution.NAME
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.py"), ROOT / "pyproject.toml"]
    named = {(path.name, name) for path in texts for name in re.findall(r"([\w-]*temper[\w-]*)\[\w", path.read_text())}
    assert {name for _, name in named} == {distribution.NAME}, named


def test_extras_that_are_named_exist():
    texts = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.py"), ROOT / "README.md"]
    pattern = rf"(?:{distribution.NAME}|'\.)\[([\w,]+)\]"
    named = {each for path in texts for match in re.findall(pattern, path.read_text()) for each in match.split(",")}
    assert "onnx" in named
    assert named <= PROJECT["project"]["optional-dependencies"].keys()


def test_files_that_are_no_code_are_in_the_wheel():
    package = ROOT / "src/temper"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["temper"]
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    there = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert sorted(there - packed) == []


def test_the_citation_is_of_this_version_and_of_the_papers_that_the_readme_names():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["project"]["version"]
    cited = {each["value"] for paper in citation["references"] for each in paper["identifiers"]}
    assert cited == set(re.findall(r"arXiv:\d{4}\.\d{5}", (ROOT / "README.md").read_text().partition("## Sources")[2]))


def test_the_workflow_tries_every_python_that_is_promised():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    tried = set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"])
    promised = {each.rpartition(" ")[2] for each in PROJECT["project"]["classifiers"] if ":: 3." in each}
    assert tried == promised
