"""Claims: which process is at which piece of work, in a folder or object store that processes share.

A claim is a file that its holder touches every few seconds. Someone else takes it over when its process is known to be
gone (same machine, no such process), when it cannot be read, or when it was not touched for long. How long is judged by
the clock of the file system, or, where that is out of step, by what this process has watched: never by the clocks of
two machines, which may be hours apart.
"""

import contextlib
import functools
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from temper.core.files import check_writable, made
from temper.core.places import Place
from temper.errors import RunError

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
MOMENT = 0.2  # seconds until a claim is asked for again
FILLED_BY = "at-work.json"  # the claim of the process that fills a folder
_FILLING = FILLED_BY.removesuffix(".json")


@dataclass(frozen=True)
class Holder:
    """Who holds a claim.

    Attributes:
        owner: a name; whoever bears it may take its claims again.
        machine: the holder's, since it was last started; a container counts as a machine.
        pid: of the holder's process.
        started: when that process began, so that a later one of the same number is not taken for it.
        since: when the claim was made, by the holder's clock, to be shown.
    """

    owner: str
    machine: str = ""
    pid: int = 0
    started: str = ""
    since: str = ""

    @classmethod
    def here(cls, owner: str) -> Self:
        """This process, under that name."""
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(owner, machine(), os.getpid(), started(os.getpid()) or "", now)

    @classmethod
    def read(cls, content: bytes) -> Self | None:
        """The holder that a claim names; None where it cannot be read."""
        try:
            values = json.loads(content)
            known = {key: values.get(key, default) for key, default in asdict(cls("")).items()}
            words = {key: str(value) for key, value in known.items() if key != "pid"}
            return cls(pid=int(known["pid"]), **words)
        except (ValueError, TypeError, AttributeError):
            return None

    def __str__(self) -> str:
        since = f" since {self.since}" if self.since else ""
        return f"process {self.pid} on {self.machine.partition(' ')[0]}{since}"

    def gone(self) -> bool:
        """Whether the process is known to have ended; of one on another machine nothing is known."""
        return bool(self.started) and self.machine == machine() and started(self.pid) != self.started


class Claims:
    """The claims in one folder; those that this process holds are kept fresh by a thread of its own.

    Args:
        place: that processes share.
        folder: of the claims in it; empty: the place itself.
    """

    def __init__(self, place: Place, folder: str) -> None:
        self._place, self._folder = place, folder
        self._held: dict[str, bytes] = {}
        self._watched: dict[str, tuple[tuple[bytes, float], float]] = {}
        self._beat: threading.Thread | None = None
        self._lock = threading.Lock()

    def take(self, name: str, owner: str) -> bool:
        """Take a piece of work, unless someone else who lives is at it. An owner may take its own again."""
        file, content = self._file(name), json.dumps(asdict(Holder.here(owner))).encode()
        try:
            self._place.create(file, content)
        except FileExistsError:
            if not self._take_over(file, owner, content):
                return False
        with self._lock:
            self._held[file] = content
            if self._beat is None:
                self._beat = threading.Thread(target=self._beats, daemon=True)
                self._beat.start()
        return True

    def holder(self, name: str, owner: str) -> Holder | None:
        """Who else is at a piece of work, as far as is known; None where it may be taken."""
        file = self._file(name)
        try:
            content = self._place.read(file)
            return None if self._free(file, content, owner) else Holder.read(content)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def release(self, name: str, owner: str) -> None:
        """Give a piece of work back; a claim that another one took over stays."""
        file = self._file(name)
        with self._lock:
            self._held.pop(file, None)
        with contextlib.suppress(FileNotFoundError):
            holder = Holder.read(self._place.read(file))
            if holder is None or holder.owner == owner:
                self._place.remove(file)

    def sweep(self, owner: str) -> None:
        """Remove what nobody holds any more: a killed process leaves its claims, and files that it had just begun."""
        for file in self._place.stamps(self._folder):
            name, ending = file.removesuffix(".json"), Path(file).suffix
            if ending == ".json" and self.take(name, owner):
                self.release(name, owner)
            elif ending == ".part" and self._age(path := self._path(file)) >= STALE_SECONDS:
                self._place.remove(path)

    def _take_over(self, file: str, owner: str, content: bytes) -> bool:
        try:
            held = self._place.read(file)
            return self._free(file, held, owner) and self._place.replace(file, held, content)
        except FileNotFoundError:  # given back just now; whoever asks again may have it
            return False

    def _free(self, file: str, content: bytes, owner: str) -> bool:
        """Whether a claim that is there may be taken over."""
        holder = Holder.read(content)
        if holder is None or holder.owner == owner or holder.gone():
            return True
        modified, age = self._place.modified(file), self._age(file)
        seen, now = (content, modified), time.monotonic()
        before, since = self._watched.get(file, (seen, now))
        self._watched[file] = (seen, since if before == seen else now)
        return max(age, now - self._watched[file][1]) >= STALE_SECONDS

    def _age(self, file: str) -> float:
        """Seconds since a file was touched, by the clock of the file system; 0 of one that is gone."""
        try:
            return self._place.now(file) - self._place.modified(file)
        except FileNotFoundError:
            return 0.0

    def _beats(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            with self._lock:
                held = dict(self._held)
                if not held:
                    self._beat = None
                    return
            for file, content in held.items():
                with contextlib.suppress(OSError):  # given back meanwhile, or a hiccup; the next beat comes
                    if self._place.read(file) == content:  # after a long pause it may be another's
                        self._place.touch(file, content)

    def _file(self, name: str) -> str:
        return self._path(f"{name}.json")

    def _path(self, file: str) -> str:
        return f"{self._folder}/{file}".lstrip("/")


def owner() -> str:
    """A name that no other holder has."""
    return f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, this process is the only one that fills a folder, which is made; left empty, it is removed.

    Raises:
        RunError: another process that lives is at it. ArgumentError: it cannot be made or written to.
    """
    check_writable(folder, "out")
    me, claims = owner(), Claims(Place(folder), "")
    with made(folder):
        while not claims.take(_FILLING, me):
            refuse_if_filled(folder)
            time.sleep(MOMENT)  # it was given back just now, or two were at the claim of a process that is gone
        try:
            yield
        finally:
            claims.release(_FILLING, me)


def refuse_if_filled(folder: Path) -> None:
    """Refuse a folder that another process is filling by itself.

    Raises:
        RunError: see above.
    """
    holder = Claims(Place(folder), "").holder(_FILLING, "")
    if holder is not None:
        again = f", or until it was silent for {STALE_SECONDS:.0f} s," if holder.machine != machine() else ""
        raise RunError(
            f"{folder}: is being filled by {holder}; wait until that ends{again} or choose another out folder"
        )


@contextlib.contextmanager
def in_turn(folder: Path, name: str) -> Iterator[None]:
    """Inside, this process is the only one at a piece of work in a folder of claims; others are waited for."""
    me, claims, logged = owner(), Claims(Place(folder), ""), False
    while not claims.take(name, me):
        if not logged and (holder := claims.holder(name, me)):
            log.info("%s: waiting for %s, which is at work there", folder, holder)
            logged = True
        time.sleep(MOMENT)
    try:
        yield
    finally:
        claims.release(name, me)


@functools.cache
def machine() -> str:
    """This machine since it was last started; processes with numbers of their own (a container's) count as another."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    if sys.platform == "darwin":
        parts.append(_output_of("sysctl", "-n", "kern.boottime"))
    return " ".join(parts)


def started(pid: int) -> str | None:
    """When a process of this machine began, in a form to be compared; None where it has ended, or cannot be found."""
    if not Path("/proc/self/stat").exists():
        state, _, began = _output_of("ps", "-o", "stat=,lstart=", "-p", str(pid)).partition(" ")
        return None if not began or state.startswith("Z") else " ".join(began.split())
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name before may hold anything
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _output_of(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


@contextlib.contextmanager
def repeated(action: Callable[[], None], seconds: float) -> Iterator[None]:
    """Inside, do something every so many seconds in a thread of its own."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds):
            with contextlib.suppress(OSError):  # a hiccup of the network or disk; the next beat comes
                action()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
