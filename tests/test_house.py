"""The measures of the house: short functions and files, small constructors, few ``Any``, tests that stand alone."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
SOURCE, TESTS = ROOT / "src/temper", ROOT / "tests"
BOTH = pytest.mark.parametrize("folder", [SOURCE, TESTS], ids=["src", "tests"])

LONG_FUNCTION = 30  # lines; 95 % of the functions have no more
LONG_FILE = 400  # lines
MANY_ARGUMENTS = 7  # of a constructor
MOST_ANY = 100


@cache
def trees(folder: Path) -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}


@cache
def nodes(folder: Path) -> list[tuple[Path, ast.AST]]:
    return [(path, node) for path, tree in trees(folder).items() for node in ast.walk(tree)]


def of_kind(folder: Path, *kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """The nodes of these kinds, each with where it stands."""
    for path, node in nodes(folder):
        if isinstance(node, kinds):
            yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def name(node: ast.AST) -> str:
    """``field`` of ``field``, of ``dataclasses.field`` and of a call of either."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_argument(statement: ast.stmt) -> bool:
    """Whether a line of a dataclass or named tuple is a parameter of its constructor."""
    if not isinstance(statement, ast.AnnAssign):
        return False
    if {"ClassVar", "KW_ONLY"} & set(map(name, ast.walk(statement.annotation))):
        return False
    options = statement.value.keywords if isinstance(statement.value, ast.Call) else []
    return not any(option.arg == "init" and not option.value.value for option in options)


def arguments(defined: ast.ClassDef) -> int:
    """How many parameters the constructor has that a class declares, without ``self`` and what is inherited."""
    for statement in defined.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return sum(isinstance(node, ast.arg) for node in ast.walk(statement.args)) - 1
    fields = "dataclass" in map(name, defined.decorator_list) or "NamedTuple" in map(name, defined.bases)
    return sum(map(is_argument, defined.body)) if fields else 0


def joined(test: ast.expr) -> bool:
    """Whether a condition is ``a and b``, or ``not (a or b)``, which is the same."""
    negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    inner, operation = (test.operand, ast.Or) if negated else (test, ast.And)
    return isinstance(inner, ast.BoolOp) and isinstance(inner.op, operation)


@pytest.mark.slow
@BOTH
def test_functions_are_short(folder):
    functions = of_kind(folder, ast.FunctionDef, ast.AsyncFunctionDef)
    lengths = {f"{place} {node.name}": node.end_lineno - node.lineno + 1 for place, node in functions}
    percentile = np.percentile([*lengths.values()], 95, method="lower")
    long = sorted(((lines, place) for place, lines in lengths.items() if lines > LONG_FUNCTION), reverse=True)
    assert percentile <= LONG_FUNCTION, f"{len(long)} of {len(lengths)} functions are longer: {long}"


@BOTH
def test_files_are_short(folder):
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in trees(folder)}
    long = {path: lines for path, lines in lengths.items() if lines > LONG_FILE}
    assert not long, f"longer than {LONG_FILE} lines: {long}"


def test_constructors_are_small():
    counts = [(arguments(node), node.name, place) for f in (SOURCE, TESTS) for place, node in of_kind(f, ast.ClassDef)]
    large = sorted((each for each in counts if each[0] > MANY_ARGUMENTS), reverse=True)
    assert not large, f"more than {MANY_ARGUMENTS} arguments: {large}"


def test_any_is_rare():
    named = [(place, name(node)) for f in (SOURCE, TESTS) for place, node in of_kind(f, ast.Name, ast.Attribute)]
    uses = [place for place, each in named if each == "Any"]
    assert len(uses) <= MOST_ANY, f"{len(uses)} times Any: {uses}"


def test_no_test_imports_from_another():
    """Nor does a script that stands in a test."""
    imports = re.compile(r"^\s*(?:from|import) test_\w+", re.MULTILINE)
    texts = {path.name: path.read_text(encoding="utf-8") for path in trees(TESTS)}
    importing = {path: lines for path, text in texts.items() if (lines := imports.findall(text))}
    assert not importing, f"what tests share stands in modules that are no tests: {importing}"


def test_an_assertion_is_of_one_thing():
    """So that a failure says which half failed."""
    several = [place for place, node in of_kind(TESTS, ast.Assert) if joined(node.test)]
    assert not several, f"assertions of several things: {several}"
