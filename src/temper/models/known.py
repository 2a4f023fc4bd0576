"""What the outputs of a pretrained network are called, as its source says, and which classes of a data set they are."""

from collections.abc import Sequence
from functools import cache

from temper.core.files import JsonObject

OUTPUT_NAMES = "output_names"
"""In a classifier's ``info``: a name for each output of a head that came with its weights."""


def imagenet_names(classes: int) -> list[str]:
    """A name for each of so many classes, where that number says which part of ImageNet they are (timm's map)."""
    return [name for _, name in _imagenet(classes)]


def outputs_called(info: JsonObject, classes: Sequence[str]) -> list[str] | None:
    """What all outputs of a classifier are called in the manner of a data set that has these classes: their names, or
    WordNet's ids of ImageNet's; None where the data set has another that is none of them.

    Args:
        info: the classifier's.
        classes: the data set's.
    """
    names: list[str] = info.get(OUTPUT_NAMES) or []
    for known in (names, _wordnet_ids(names)):
        if known and len(set(known)) == len(known) and set(classes) <= set(known):
            return known
    return None


def _wordnet_ids(names: Sequence[str]) -> list[str]:
    """WordNet's ids of outputs whose names are those of ImageNet's classes."""
    classes = _imagenet(len(names))
    if not classes:
        return []
    alike = all(_first(own) == _first(name) for (_, own), name in zip(classes[:10], names[:10], strict=True))
    return [synset for synset, _ in classes] if alike else []


def _first(name: str) -> str:
    return name.partition(",")[0].strip().lower()


@cache
def _imagenet(classes: int) -> tuple[tuple[str, str], ...]:
    """WordNet's id and name of each class."""
    from timm.data import ImageNetInfo, infer_imagenet_subset  # seconds, which few models need wait for

    subset = infer_imagenet_subset({"num_classes": classes})
    if subset is None:
        return ()
    known = ImageNetInfo(subset)
    return tuple(zip(known.label_names(), known.label_descriptions(), strict=True))
