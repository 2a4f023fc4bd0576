"""Image classifiers with their preprocessing inside: loaded, saved, their heads found and replaced.

The names below are loaded when they are first used: who only looks into the catalogue needs no model library.
"""

from typing import TYPE_CHECKING

from temper.core.lazily import names_of

if TYPE_CHECKING:
    from temper.models.adapting import adapted
    from temper.models.classifier import Classifier, fingerprint, weights_fingerprint
    from temper.models.heads import find_head, replace_head
    from temper.models.loading import check, load, refresh_head
    from temper.models.saving import check_restores, save
    from temper.models.weights import load_tensors

_HOMES = {
    "Classifier": "classifier",
    "adapted": "adapting",
    "check": "loading",
    "check_restores": "saving",
    "find_head": "heads",
    "fingerprint": "classifier",
    "load": "loading",
    "load_tensors": "weights",
    "refresh_head": "loading",
    "replace_head": "heads",
    "save": "saving",
    "weights_fingerprint": "classifier",
}

__all__ = [
    "Classifier",
    "adapted",
    "check",
    "check_restores",
    "find_head",
    "fingerprint",
    "load",
    "load_tensors",
    "refresh_head",
    "replace_head",
    "save",
    "weights_fingerprint",
]

__getattr__ = names_of(__name__, _HOMES)
