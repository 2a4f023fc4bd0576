"""Image classifiers with their preprocessing inside: loaded, saved, their heads found and replaced."""

from temper.models.adapting import adapted
from temper.models.classifier import Classifier, fingerprint, weights_fingerprint
from temper.models.heads import find_head, replace_head
from temper.models.loading import check, load, refresh_head
from temper.models.saving import check_restores, save
from temper.models.weights import load_tensors

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
