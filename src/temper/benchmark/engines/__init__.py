"""Engines carry a list of runs out: one file an engine, and one line in :data:`ENGINES`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from temper.core.calls import Processes, Workers
from temper.core.lazily import loaded

if TYPE_CHECKING:
    from temper.benchmark.engines.base import Engine


@dataclass(frozen=True)
class Description:
    """What there is to know of an engine before it is made.

    Attributes:
        maker: ``module:function`` in this package, from :class:`Placement`.
        words: where it carries runs out, for the help.
    """

    maker: str
    words: str


ENGINES = {
    "local": Description("local:make", "processes of this machine"),
    "ray": Description("ray:make", "a Ray cluster (extra ray)"),
}


class Placement(BaseModel):
    """How runs are placed; an engine refuses what it cannot heed."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    workers: Workers = "auto"
    """Runs at once. auto: one for each GPU, or as many as there are cores for the threads of each; on Ray as many as
    the cluster holds. It does not change the results."""
    threads: Processes | None = None
    """CPU threads of each run, in place of the SPEC's (finetune: threads; 1). Rounding depends on them: a run that was
    begun keeps its number, and its row tells it."""
    gpus_per_run: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """ray: share of a GPU that a run gets, as 0.5."""
    address: str | None = None
    """ray: address of the cluster; by default the one that RAY_ADDRESS names, or a new one on this machine."""


def make(name: str, placement: Placement) -> "Engine":
    """The engine of this name.

    Raises:
        ArgumentError: it cannot heed the placement.
    """
    engine: Engine = loaded(f"{__name__}.{ENGINES[name].maker}")(placement)
    return engine
