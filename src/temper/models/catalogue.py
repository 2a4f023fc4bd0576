"""Backbones by name: those of the two studies that Temper's benchmark repeats, and where their weights are.

The 40 of the Guide (Heuillet et al., arXiv:2508.14079) under its own names, and the four robust ones of ARES that
Epsilon-Scheduling (Ngnawé et al., arXiv:2509.23325, Table 5) starts from. ``catalogue.csv`` beside this file is the
table. Its parameters are counted without the head in timm's networks, its tier follows from them, and the Guide's own
tier stands beside it.
"""

import csv
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from temper.errors import ArgumentError
from temper.text import nearest

# Upper ends of the Guide's tiers, in parameters without the head.
_SMALL, _MEDIUM = 20_000_000, 50_000_000


@dataclass(frozen=True)
class Size:
    """How large a backbone is.

    Attributes:
        parameters: number of parameters without the head.
        tier: "small", "medium" or "large", by :func:`tier_of`.
        tier_published: the study's own tier; empty where it gives none.
    """

    parameters: int
    tier: str
    tier_published: str


@dataclass(frozen=True)
class Weights:
    """The pretrained weights of a backbone.

    Attributes:
        pretraining: "supervised", "supervised (multistep)", "supervised (robust)", "self-supervised",
            "self-supervised (multimodal)" or "fusion".
        pretraining_data: such as "in22k+in1k".
        licence: of the weights.
        file: name of the published file that only a person can fetch; empty where timm fetches the weights.
        published_at: where that file is.
    """

    pretraining: str
    pretraining_data: str
    licence: str
    file: str
    published_at: str


@dataclass(frozen=True)
class Backbone:
    """One row of the catalogue.

    Attributes:
        name: its name in the study.
        source: the MODEL that builds it, such as ``timm:convnext_base.fb_in22k``.
        type: "convolution", "attention" or "hybrid".
        size: how large it is.
        weights: what it is pretrained on, and how they are had.
        note: what a user should know of it.
    """

    name: str
    source: str
    type: str
    size: Size
    weights: Weights
    note: str

    def facts(self) -> dict[str, str | int]:
        """What results on it are grouped by."""
        return {
            "type": self.type,
            "tier": self.size.tier,
            "parameters": self.size.parameters,
            "pretraining": self.weights.pretraining,
            "pretraining_data": self.weights.pretraining_data,
        }


class _Catalogue(Mapping[str, Backbone]):
    """The rows of the table by name, in its order; read when first asked for."""

    def __getitem__(self, name: str) -> Backbone:
        return _rows()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_rows())

    def __len__(self) -> int:
        return len(_rows())


CATALOGUE: Mapping[str, Backbone] = _Catalogue()
"""Every backbone by name, in the order of the table."""


def backbone(name: str) -> Backbone:
    """The backbone of that name.

    Raises:
        ArgumentError: there is none; the message gives the nearest names.
    """
    if name not in CATALOGUE:
        near = nearest_backbones(name)
        fix = f"did you mean {', '.join(near)}?" if near else "temper.models.catalogue.CATALOGUE lists the names"
        raise ArgumentError("backbone", name, f"no such name in the catalogue; {fix}")
    return CATALOGUE[name]


def named_in(model: str) -> Backbone | None:
    """The backbone that a MODEL names, alone or before an @weights-file; None where it names none."""
    return CATALOGUE.get(model.partition("@")[0])


def nearest_backbones(name: str) -> list[str]:
    """At most three names of the catalogue that are spelt much like this one, upper and lower case being the same."""
    return nearest(name, CATALOGUE, 3)


def tier_of(parameters: int) -> str:
    """The Guide's tier of a backbone with so many parameters without its head: small < 20 M <= medium < 50 M."""
    if parameters < _SMALL:
        return "small"
    return "medium" if parameters < _MEDIUM else "large"


@functools.cache
def _rows() -> dict[str, Backbone]:
    with Path(__file__).with_name("catalogue.csv").open(newline="", encoding="utf-8") as table:
        return {row["name"]: _backbone(row) for row in csv.DictReader(table)}


def _backbone(row: Mapping[str, str]) -> Backbone:
    return Backbone(
        row["name"],
        row["source"],
        row["type"],
        Size(int(row["parameters"]), row["tier"], row["tier_published"]),
        Weights(row["pretraining"], row["pretraining_data"], row["licence"], row["weights_file"], row["weights_from"]),
        row["note"],
    )
