"""The fenced blocks of the guides, and a shell that carries theirs out while this process answers what they call.

A command that starts Python and imports torch takes seconds. So ``temper``, ``python`` and ``pip`` are small programs
in the blocks' PATH that hand words, working folder and open files to this process, which answers with an exit status.
"""

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{path.relative_to(ROOT / 'docs')}" for path in ROOT.glob("docs/**/*.md"))]
PAGES += ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md"]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: from the repository's root.
        line: of its first line of text in the page, from 1.
        section: the heading that it stands below.
        language: behind the fence.
        text: what it holds.
    """

    page: str
    line: int
    section: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def first(self) -> str:
        """Its first line, by which tables name it."""
        return self.text.splitlines()[0]


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page, from top to bottom."""
    text, found = (ROOT / page).read_text(), []
    for fence in _FENCE.finditer(text):
        before = text[: fence.start(2)]
        section = re.findall(r"^## .*$|\A", before, re.M)[-1]
        found.append(Block(page, before.count("\n") + 1, section, fence[1], fence[2]))
    return found


_CALLER = f"""#!{sys.executable} -SE
import json, os, socket, sys
sys.stdout.flush()
with socket.socket(socket.AF_UNIX) as line:
    line.connect(os.environ["ANSWERED_AT"])
    words = json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]).encode()
    socket.send_fds(line, [os.getcwd().encode() + b"\\0" + words], [0, 1, 2])
    sys.exit(int(line.recv(16) or 70))
"""

Answer = Callable[[Sequence[str]], int]


class Shell:
    """Runs text in bash, in a folder; the programs it calls are answered here, in their folder and with their files.

    Args:
        folder: for the small programs and the socket that they speak to.
        answers: by a program's name, from its words to an exit status.
    """

    def __init__(self, folder: Path, answers: dict[str, Answer]) -> None:
        self._answers = answers
        self._socket = socket.socket(socket.AF_UNIX)
        self._environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "ANSWERED_AT": str(folder / "at")}
        folder.mkdir()
        for name in answers:
            (folder / name).write_text(_CALLER)
            (folder / name).chmod(0o755)

    def __enter__(self) -> Self:
        self._socket.bind(self._environment["ANSWERED_AT"])
        self._socket.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def run(self, text: str, folder: Path) -> str:
        """Carry a block out, to its end or its first failure; returns what it printed.

        Raises:
            AssertionError: it failed.
        """
        told = folder / "told.txt"
        with told.open("wb") as file:
            call = ["bash", "-euo", "pipefail", "-c", text]
            bash = subprocess.Popen(
                call, cwd=folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
            while self._is_called() or bash.poll() is None:
                pass
        printed = told.read_text()
        assert bash.returncode == 0, f"{text}\nended with {bash.returncode}:\n{printed}"
        return printed

    def _is_called(self) -> bool:
        """Answer a program, if one calls soon; returns whether one did."""
        called = bool(select.select([self._socket], [], [], 0.01)[0])
        if called:
            self._answer()
        return called

    def _answer(self) -> None:
        line, _ = self._socket.accept()
        with line, contextlib.ExitStack() as stack:
            content, files, _, _ = socket.recv_fds(line, 1 << 16, 3)
            folder, _, words = content.partition(b"\0")
            name, *rest = json.loads(words)
            opened = [os.fdopen(file, mode) for file, mode in zip(files, ("r", "w", "w"), strict=True)]
            stdin, stdout, stderr = map(stack.enter_context, opened)
            stack.enter_context(contextlib.chdir(folder.decode()))
            stack.enter_context(contextlib.redirect_stdout(stdout))
            stack.enter_context(contextlib.redirect_stderr(stderr))
            before, sys.stdin = sys.stdin, stdin
            try:
                status = self._answers[name](rest)
            finally:
                sys.stdin = before
            stdout.flush()
            line.sendall(str(status).encode())
