"""Where networks come from: a file for each source, and the one table of them."""

from temper.core.lazily import loaded
from temper.models.sources.source import ModelSource, Request

__all__ = ["SOURCES", "ModelSource", "Request", "find_source"]

_PLACES = (
    "bundled:BundledSource",
    "timm:TimmSource",
    "clip:ClipSource",
    "torchvision:TorchvisionSource",
    "hf:HfSource",
    "factory:FactorySource",
    "onnx:OnnxSource",
    "torch:TorchSource",
)
SOURCES: tuple[type[ModelSource], ...] = tuple(loaded(f"{__name__}.{place}") for place in _PLACES)


def find_source(text: str) -> ModelSource | None:
    """The network that a MODEL without weights file names; None where it is no source's."""
    # A prefix goes before a module that is called so.
    by_precedence = sorted(SOURCES, key=lambda source: source.prefix == "")
    return next((source(text) for source in by_precedence if source.names(text)), None)
