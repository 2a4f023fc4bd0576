"""What a run is told apart by: its factors, and of these the configuration that is scored and ranked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

import pandas as pd


@dataclass(frozen=True)
class Configuration:
    """What is compared within one protocol, over data sets and seeds."""

    backbone: str
    objective: str
    schedule: str


@dataclass(frozen=True)
class Factors:
    """What a grid is the product of: a run's place in it."""

    backbone: str
    dataset: str
    objective: str
    schedule: str
    protocol: str
    seed: int


@dataclass(frozen=True)
class BackboneFacts:
    """What is told of a backbone; "" where it is unknown."""

    tier: str = ""
    type: str = ""
    pretraining: str = ""


def with_protocol(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, with what their protocol stands for as columns: ``epochs``, and ``method``, which weights it trains
    (:mod:`temper.training.protocols`); both are read from the runs' configurations."""
    configurations = [json.loads(config) for config in rows["config"]]
    methods = [each.get("protocol", {}).get("name") for each in configurations]
    return rows.assign(epochs=[each["epochs"] for each in configurations], method=methods)


FactorValues = Mapping[str, str | int]  # by the factors' names
CONFIGURATION = tuple(field.name for field in fields(Configuration))
FACTORS = tuple(field.name for field in fields(Factors))
