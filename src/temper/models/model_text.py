"""The text MODEL, read once: a run's folder, or a network of a source, alone or by its name in the catalogue."""

from dataclasses import dataclass
from pathlib import Path

from temper.core.files import near
from temper.errors import ArgumentError
from temper.models.catalogue import CATALOGUE, Backbone, nearest_backbones
from temper.models.sources import SOURCES, ModelSource, find_source
from temper.models.sources.bundled import BundledSource
from temper.text import did_you_mean

# What stands before files of these kinds in a MODEL; .pt and the like are weights of some, programs of others.
_BEFORE_FILES = {
    ".onnx": ("onnx:",),
    ".pt2": ("torch:",),
    ".safetensors": ("timm:NAME@",),
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), ("timm:NAME@", "torch:")),
}


@dataclass(frozen=True)
class ModelText:
    """What a MODEL names.

    Attributes:
        text: the MODEL, without its weights file.
        origin: the folder of a saved model, or the network of a source.
        weights_file: what the text names after @.
        known: the row of the catalogue that the text names.
    """

    text: str
    origin: Path | ModelSource
    weights_file: str | None = None
    known: Backbone | None = None

    @property
    def builds_heads(self) -> bool:
        """Whether its source builds a head for the classes, or brings one."""
        return isinstance(self.origin, ModelSource) and self.origin.builds_heads

    @property
    def brings_classes(self) -> bool:
        """Whether its source says which classes its networks know."""
        return isinstance(self.origin, ModelSource) and self.origin.brings_classes

    @property
    def weights_are_optional(self) -> bool:
        """Whether the network can be built without weights."""
        return isinstance(self.origin, ModelSource) and self.origin.weights_are_optional and self.weights_file is None


def parse_model(text: str) -> ModelText:
    """What a MODEL names; a folder goes before a name of the catalogue.

    Raises:
        ArgumentError: it names nothing.
    """
    folder = run_folder(text)
    if folder is not None:
        return ModelText(text, folder)
    name, _, file = text.partition("@")
    if file and _takes_weights_file(name):
        return ModelText(name, run_folder(name) or source_of(name), file, CATALOGUE.get(name))
    return ModelText(text, source_of(text), known=CATALOGUE.get(text))


def run_folder(text: str) -> Path | None:
    """The folder that a MODEL names, if it names one."""
    return Path(text) if text != BundledSource.prefix and Path(text).is_dir() else None


def source_of(text: str) -> ModelSource:
    """The network that a MODEL without weights file names, which is no folder.

    Raises:
        ArgumentError: it names nothing.
    """
    known = CATALOGUE.get(text)
    source = find_source(known.source if known else text)
    if source is None:
        raise _no_model(text)
    return source


def _takes_weights_file(name: str) -> bool:
    source = find_source(name)
    return name in CATALOGUE or (source is not None and source.takes_weights_file)


def _no_model(text: str) -> ArgumentError:
    hint = did_you_mean(_meant(text))
    return ArgumentError(
        "model",
        text,
        f"must be a run folder that exists, {', '.join(source.form for source in SOURCES)} or NAME[@weights-file] of"
        f" temper.models.catalogue{hint and f'; {hint}'}",
    )


def _meant(text: str) -> list[str]:
    """What may be meant: a file wants its source before it, weights the network that they are of."""
    path = Path(text)
    if path.is_file():
        return [f"{before}{text}" for before in _BEFORE_FILES.get(path.suffix.lower(), ())]
    return [*map(str, near(path)), *nearest_backbones(text.partition("@")[0])]
