"""Every fenced block of README and guides is carried out, on small data; what takes a GPU, hours or other people's data
is named in NOT_RUN, and read by the real reader of its options all the same."""

import argparse
import contextlib
import json
import re
import runpy
import shlex
import shutil
import sys
import tomllib
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import temper
import tiny
from guide_blocks import PAGES, ROOT, Block, Shell, blocks
from guide_world import INSTEAD, SIZE, settle, settle_more, smaller
from temper import data
from temper.benchmark import planning
from temper.benchmark.engines.local import LocalEngine
from temper.benchmark.grid import cells
from temper.benchmark.spec import read_spec
from temper.cli import main as cli
from temper.core.calls import parse
from temper.errors import TemperError
from wrong_calls import commands

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::temper.errors.TemperWarning")]

LONG = "takes minutes to days, mostly on data that are not shipped"
# By page, and a block's first line or all of a page's: why it is not run.
NOT_RUN = {
    ("README.md", "python3 -m venv .venv && . .venv/bin/activate"): "installs; .ci/run runs the second to the letter",
    ("docs/index.md", "python3 -m venv .venv && . .venv/bin/activate"): "installs, and takes two minutes",
    ("docs/cluster.md", "cat > bench.sbatch <<'END'"): "needs Slurm; the script is carried out by bash",
    ("docs/cluster.md", "cat > ray.sbatch <<'END'"): "needs Slurm; the script is carried out by bash",
    ("docs/cluster.md", "kubectl create configmap spec --from-file=spec.yaml"): "needs Kubernetes",
    ("docs/cluster.md", "pip install 'temper-robust[s3]'"): "needs a bucket; tests/test_bench_store.py has one",
    ("docs/tutorials/detector.md", "pip install 'temper-robust[onnx]'"): "installs",
    ("docs/recipes.md", ""): LONG,
    ("docs/study.md", ""): LONG,
    ("benchmarks/README.md", ""): LONG,
}
READ_ALONE = {"app": "serves a page until someone presses Ctrl-C; tests/test_app.py asks it"}  # commands, anywhere
LOOKED_AT = {"sh", "python", "yaml", "json", ""}
OTHERS_EXTRAS = {"pyautoattack", "foolbox"}  # packages of others that guides install


class Parsed(Exception):  # noqa: N818
    """A script has read its options."""


def not_run(block: Block) -> bool:
    return bool({(block.page, ""), (block.page, block.first)} & NOT_RUN.keys())


def is_run(block: Block) -> bool:
    return block.language in ("sh", "python") and not not_run(block)


def run_temper(words: Sequence[str]) -> int:
    """A call as the guide has it is read; what it does is done to less."""
    return read_temper(words) or (0 if words[0] in READ_ALONE else cli.main(smaller(words)))


def read_temper(words: Sequence[str]) -> int:
    if words[0] == "bench":
        words = [" ".join(words[:2]), *words[2:]]
    try:
        parse(commands()[words[0]], words[1:], words[0])
    except TemperError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def read_python(words: Sequence[str]) -> int:
    """A script up to where it has read its options; of ``-m venv FOLDER`` what the shell asks for."""
    if words[0] == "-m":
        activate = Path(words[2]) / "bin/activate"
        activate.parent.mkdir(parents=True)
        activate.touch()
        return 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*words])
        patch.syspath_prepend(str((ROOT / words[0]).parent))
        reading = argparse.ArgumentParser.parse_args

        def read(parser, *given):
            reading(parser, *given)
            raise Parsed

        patch.setattr(argparse.ArgumentParser, "parse_args", read)
        try:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except Parsed:
            return 0
        except SystemExit as ended:
            return int(ended.code or 0) or 70
    return 70  # it read no options


def read_pip(words: Sequence[str]) -> int:
    """An installation of Temper asks for extras that there are, and any other for a package that is named here."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in (word for word in words[1:] if not word.startswith("-")):
        ours = re.fullmatch(r"(?:\.|temper-robust)(?:\[(.*)\])?", word)
        if not (set((ours[1] or "").split(",")) <= {"", *extras} if ours else word in OTHERS_EXTRAS):
            return 70
    return 0


def read_srun(words: Sequence[str]) -> int:
    """What it begins on a node: ``temper``, or a part of Ray."""
    name, *rest = words[next(place for place, word in enumerate(words) if not word.startswith("-")) :]
    return read_temper(rest) if name == "temper" else 0


def read_sbatch(words: Sequence[str]) -> int:
    """A batch script, on the node of a job: bash carries it out, and asks here what it calls."""
    job = {"SLURM_JOB_NODELIST": "node-[1-4]", "SLURM_CPUS_PER_TASK": "32"}
    Path("run.sh").write_text(
        "".join(f"export {key}='{value}'\n" for key, value in job.items()) + Path(words[0]).read_text()
    )
    return 0


def nothing(words: Sequence[str]) -> int:
    """What others' programs do is left out."""
    return 0


READING = {
    "temper": read_temper,
    "python": read_python,
    "python3": read_python,
    "pip": read_pip,
    "srun": read_srun,
    "sbatch": read_sbatch,
    **dict.fromkeys(("pytest", "ray", "scontrol", "kubectl", "sleep"), nothing),
}


@pytest.fixture(scope="module")
def patched() -> Iterator[None]:
    """What takes longest is left out: figures, processes that import torch, clocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("temper.report.content.drawn", lambda figure: "data:,")
        patch.setattr(LocalEngine, "run", lambda self, grid, task: ((cell, task(cell)) for cell in grid))
        patch.setattr(planning, "MEASURED_SECONDS", 0.01)
        patch.setenv("MPLBACKEND", "agg")
        yield


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, patched: None) -> Iterator[Shell]:
    with Shell(tmp_path_factory.mktemp("shell") / "bin", READING | {"temper": run_temper}) as shell:
        yield shell


@pytest.fixture(scope="module")
def to_the_letter(tmp_path_factory: pytest.TempPathFactory, patched: None) -> Iterator[Shell]:
    """A shell for calls that are small already."""
    with Shell(tmp_path_factory.mktemp("letter") / "bin", READING | {"temper": cli.main}) as shell:
        yield shell


@pytest.fixture(scope="module")
def readme(tmp_path_factory: pytest.TempPathFactory, shell: Shell) -> Path:
    """A folder in which the README was followed."""
    folder = tmp_path_factory.mktemp("readme")
    settle(folder)
    follow("README.md", shell, folder)
    return folder


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, readme: Path) -> Path:
    """The same with what the guides name beyond it."""
    folder = tmp_path_factory.mktemp("guides") / "place"
    shutil.copytree(readme, folder, ignore=shutil.ignore_patterns("advice"))  # which each guide makes anew
    settle_more(folder)
    return folder


def follow(page: str, shell: Shell, folder: Path) -> None:
    """Carry out a guide's blocks, one after the other, in a folder; those of Python in a section share their names."""
    section, names = "", {}
    for block in filter(is_run, blocks(page)):
        if block.section != section:
            with contextlib.chdir(folder):
                section, names = block.section, given()
        run_block(block, shell, folder, names)


def run_block(block: Block, shell: Shell, folder: Path, names: dict) -> None:
    if block.language == "sh":
        shell.run(block.text, folder)
    else:
        with contextlib.chdir(folder):
            run_python(block, names)


def run_python(block: Block, names: dict) -> None:
    """A block of Python, at the lines that it has in its page."""
    text = block.text
    for word, other in INSTEAD.items():
        text = text.replace(word, other)
    exec(compile("\n" * (block.line - 1) + text, ROOT / block.page, "exec"), names)


def given() -> dict:
    """What the Python of the guides takes as given."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model, images = tiny.plain(10).eval(), rng.integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)
    with torch.no_grad():
        labels = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).argmax(1).numpy()
    names = {"model": model, "other": tiny.plain(10).eval(), "images": images, "labels": labels, "image": images[0]}
    names |= {"temper": temper, "json": json, "torch": torch, "save_file": save_file}
    return names | {"dataset": data.load("photos/test"), "texts": torch.rand(2, 8), "names": ["cat", "dog"]}


def shown_of_own_data(names: dict) -> None:
    assert names["run"].finished
    assert names["table"].clean_accuracy().value > 0.5


def shown_of_the_defence(names: dict) -> None:
    claimed, found, both = (names[each].robust_accuracy("Linf", 0.2).value for each in ("claimed", "table", "both"))
    assert claimed > found >= both


def shown_of_the_detector(names: dict) -> None:
    assert names["brittle"].shape == (10,)
    assert np.array_equal(names["brittle"], names["margin"] <= np.float32(names["detector"].threshold))


SHOWN = {
    "docs/tutorials/own-data.md": shown_of_own_data,
    "docs/tutorials/defence.md": shown_of_the_defence,
    "docs/tutorials/detector.md": shown_of_the_detector,
}

# What a guide's calls need that neither the README nor its own blocks have made.
BEFORE = {
    "docs/corruptions.md": "temper corruptions --model runs/robust --data photos/test "
    "--severity 1,3,5 --out runs/corruptions-standard",
    "docs/evaluation.md": "temper evaluate --model runs/robust --data photos/test --threat Linf:4/255 --out runs/eval",
}
TO_THE_LETTER = {"docs/tutorials/detector.md"}  # its calls build on one another
TUTORIALS = [page for page in PAGES if page.startswith("docs/tutorials/")]
FOLLOWED = [
    page for page in PAGES if page not in ("README.md", *TUTORIALS) and (page, "") not in NOT_RUN and blocks(page)
]


def test_the_readme_can_be_followed(readme):
    assert (readme / "runs/robust/report.html").exists()
    assert (readme / "robust.onnx").exists()


@pytest.mark.parametrize("page", FOLLOWED)
def test_a_guide_can_be_followed(page, furnished, shell, tmp_path, monkeypatch):
    folder = tmp_path / "place"
    shutil.copytree(furnished, folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(sys.modules, "foolbox", foolbox())
    shell.run(BEFORE.get(page, ""), folder)
    follow(page, shell, folder)


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_can_be_followed(page, shell, to_the_letter, tmp_path):
    names = {}
    for block in filter(is_run, blocks(page)):
        run_block(block, to_the_letter if page in TO_THE_LETTER else shell, tmp_path, names)
    with contextlib.chdir(tmp_path):
        SHOWN[page](names)


def foolbox() -> types.ModuleType:
    """In place of foolbox, which is no package of the tests: images at random in the ball, called as its PGD is."""

    def attack(model, x, y, epsilons):
        return None, (x + epsilons * torch.rand_like(x).sub(0.5).sign()).clamp(0, 1), None

    module = types.ModuleType("foolbox")
    attacks = types.SimpleNamespace(LinfPGD=lambda steps: attack)
    module.__dict__.update(attacks=attacks, PyTorchModel=lambda model, bounds: model)
    return module


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page) if not_run(block)], ids=str)
def test_a_block_that_is_not_run_can_be_read(block, tmp_path):
    with Shell(tmp_path / "bin", READING) as shell:
        shell.run(block.text, tmp_path)
        if (tmp_path / "run.sh").exists():
            shell.run((tmp_path / "run.sh").read_text(), tmp_path)


@pytest.mark.parametrize("block", [each for page in PAGES for each in blocks(page) if each.language == "yaml"], ids=str)
def test_a_spec_of_a_guide_is_one(block, tmp_path):
    told = yaml.safe_load(block.text)
    if "apiVersion" in told:  # Kubernetes'
        assert read_temper(shlex.split(told["spec"]["entrypoint"])[1:]) == 0
        return
    path = tmp_path / "spec.yaml"
    path.write_text(block.text)
    assert cells(read_spec(path))


def test_the_answer_of_predict_is_as_the_guide_shows_it(readme, shell, tmp_path):
    (shown,) = [json.loads(block.text) for block in blocks("docs/deployment.md") if block.language == "json"]
    shutil.copytree(readme, tmp_path / "place")
    (tmp_path / "place/notes.jpg").write_text("no image")
    told = shell.run(
        "temper predict --run runs/robust cat.jpg notes.jpg --json 2> log.txt || [ $? = 1 ]", tmp_path / "place"
    )
    assert keys(json.loads(told)) == keys(shown)


def keys(value: object) -> object:
    """The keys of an object and of all inside it, without the values."""
    if isinstance(value, dict):
        return {key: keys(inner) for key, inner in value.items()}
    return [keys(inner) for inner in value] if isinstance(value, list) else None


def test_the_rooms_are_drawn_as_they_stand():
    """The one drawing among the blocks."""
    (block,) = [each for page in PAGES for each in blocks(page) if not each.language]
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    *rooms, last = block.text.splitlines()
    assert [line.split()[0] for line in rooms] + last.split() == layers


def test_no_block_is_of_a_kind_that_nobody_looks_at():
    kinds = {block.language: str(block) for page in PAGES for block in blocks(page)}
    assert kinds.keys() <= LOOKED_AT, kinds


def test_what_is_not_run_is_there():
    firsts = {(block.page, first) for page in PAGES for block in blocks(page) for first in ("", block.first)}
    assert NOT_RUN.keys() <= firsts
