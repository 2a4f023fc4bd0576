"""Where networks come from: a file for each source, and the one table of them."""

from temper.models.sources.bundled import BundledSource
from temper.models.sources.factory import FactorySource
from temper.models.sources.onnx import OnnxSource
from temper.models.sources.source import Request, Source
from temper.models.sources.timm import TimmSource

__all__ = ["BUNDLED", "SOURCES", "Request", "Source", "find_source"]

BUNDLED = BundledSource.prefix

SOURCES: tuple[type[Source], ...] = (
    BundledSource,
    TimmSource,
    FactorySource,
    OnnxSource,
)


def find_source(text: str) -> Source | None:
    """The network that a MODEL without weights file names; None where it is no source's."""
    # A prefix goes before a module that is called so.
    by_precedence = sorted(SOURCES, key=lambda source: source.prefix == "")
    return next((source(text) for source in by_precedence if source.names(text)), None)
