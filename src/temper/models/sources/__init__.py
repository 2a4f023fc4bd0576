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
    OnnxSource,
    FactorySource,  # last: its texts have no prefix of their own
)


def find_source(text: str) -> Source | None:
    """The network that a MODEL without weights file names; None where it is no source's."""
    return next((source(text) for source in SOURCES if source.names(text)), None)
