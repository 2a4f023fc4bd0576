"""What Temper computes with here: versions, devices, instructions, threads, precision, extras. It names no host, no
user and no path, so that it can stand in a public issue."""

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from temper import distribution

PACKAGES = ("torch", "torchvision", "timm", "lightning-fabric", "numpy")  # a result depends on them

_REQUIREMENT = re.compile(r"""(?P<package>[\w.-]+).*extra\s*==\s*["'](?P<extra>[\w-]+)["']""")


@dataclass(frozen=True)
class Device:
    """What computes.

    Attributes:
        name: ``cpu``, or ``cuda:0`` and so on.
        kind: the GPU's name and memory, or the instructions that torch takes on this CPU (as AVX512).
        search: the type in which attacks search on it.
        training: the type in which ``precision: auto`` trains on it.
    """

    name: str
    kind: str
    search: str
    training: str


@dataclass(frozen=True)
class Environment:
    """What ``temper env`` tells.

    Attributes:
        versions: of Temper, Python and the packages that a result depends on.
        system: operating system and processor architecture.
        cuda: the CUDA version that torch was built for, if any.
        devices: the CPU, then GPUs.
        cores: CPU cores that this process may use.
        threads: that torch computes with.
        extras: by name, the packages that are missing of it.
    """

    versions: dict[str, str]
    system: str
    cuda: str | None
    devices: tuple[Device, ...]
    cores: int
    threads: int
    extras: dict[str, tuple[str, ...]]


def environment() -> Environment:
    """What is here now."""
    import torch

    return Environment(
        versions=versions(),
        system=f"{platform.system()} {platform.machine()}",
        cuda=torch.version.cuda,
        devices=tuple(_devices()),
        cores=cores(),
        threads=torch.get_num_threads(),
        extras=missing(metadata.requires(distribution.NAME) or ()),
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    ours = {"python": platform.python_version(), "temper": distribution.version()}
    return ours | {name: metadata.version(name) for name in PACKAGES}


def missing(requirements: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The packages of each extra that are not installed.

    Args:
        requirements: as package metadata has them, such as ``peft>=0.13; extra == "lora"``.
    """
    found: dict[str, tuple[str, ...]] = {}
    for requirement in requirements:
        if match := _REQUIREMENT.match(requirement):
            package, extra = match["package"], match["extra"]
            found[extra] = found.get(extra, ()) + (() if _installed(package) else (package,))
    return found


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def cores() -> int:
    """How many cores this process may use: under a batch system those of its job, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices() -> list[Device]:
    import torch

    gpus = [torch.cuda.get_device_properties(each) for each in range(torch.cuda.device_count())]
    return [
        _device("cpu", torch.backends.cpu.get_cpu_capability()),
        *(_device(f"cuda:{i}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB") for i, gpu in enumerate(gpus)),
    ]


def _device(name: str, kind: str) -> Device:
    from temper.core.precision import computes_bf16, half

    where = name.partition(":")[0]
    search = str(half(where) or "float32").removeprefix("torch.")
    return Device(name, kind, search=search, training="bfloat16" if computes_bf16(where) else "float32")
