"""The command that tells what Temper computes with."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from temper import distribution
from temper.cli import DONE

if TYPE_CHECKING:
    from temper.core.environment import Environment


@dataclass(frozen=True)
class Env:
    """Say what Temper computes with here: versions, devices, CPU capability, threads, precision, extras. It names no
    host, no user and no path: what it prints belongs in an issue.

    Example: temper env --json
    """

    json: bool = False
    """Print one JSON object on stdout and nothing else there."""

    def run(self) -> int:
        """Look and print."""
        from temper.core.environment import environment

        here = environment()
        if self.json:
            sys.stdout.write(json.dumps(asdict(here)) + "\n")
        else:
            from temper.cli.console import say

            say(*lines(here))
        return DONE


def lines(here: "Environment") -> list[str]:
    """A fact a line: its name, and what is here."""
    facts = {
        **here.versions,
        "system": here.system,
        "cuda": f"torch built for {here.cuda}" if here.cuda else "torch built without",
        **{each.name: f"{each.kind}; searches in {each.search}, trains in {each.training}" for each in here.devices},
        "evidence": "checked in float32, without TF32",
        "threads": f"{here.threads} on {here.cores} cores",
    }
    whole = [extra for extra, lacks in here.extras.items() if not lacks]
    facts["extras"] = ", ".join(whole) or "none"
    for extra, lacks in here.extras.items():
        if lacks:
            facts[f"no {extra}"] = f"lacks {', '.join(lacks)}: pip install '{distribution.NAME}[{extra}]'"
    width = max(map(len, facts)) + 2
    return [f"{name:{width}}{fact}" for name, fact in facts.items()]
