"""What a source of networks says of itself, and what it is asked for."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from temper.errors import ModelError
from temper.models.built import Built


@dataclass(frozen=True)
class Request:
    """How a network is to be built; see :func:`temper.models.load` for the arguments.

    Attributes:
        pretrained: with its own weights; else with random ones.
        num_classes, image_size, model_args, example: as given to ``load``.
        channels: of the images, where it was given in some way.
        restores: a saved network, whose weights come after.
    """

    pretrained: bool
    num_classes: int | None = None
    image_size: int | None = None
    channels: int | None = None
    model_args: Mapping[str, object] = field(default_factory=dict)
    example: Tensor | None = None
    restores: bool = False


@dataclass(frozen=True)
class ModelSource(ABC):
    """One network of a source: the text that names it, and how it is built.

    Attributes:
        text: the MODEL, without a weights file.
    """

    text: str

    form: ClassVar[str]
    """How its texts are written, for a person."""
    prefix: ClassVar[str] = ""
    """What the source's texts begin with, before a colon."""
    takes_weights_file: ClassVar[bool] = False
    """Whether its texts may end in @weights-file."""
    takes_arguments: ClassVar[bool] = False
    """Whether it takes ``model_args``."""
    weights_are_optional: ClassVar[bool] = False
    """Whether it builds a network with or without weights, as it is asked to; others decide themselves."""
    builds_heads: ClassVar[bool] = False
    """Whether it is asked to build a head for the classes, and may be the only one that can."""

    brings_classes: ClassVar[bool] = False
    """Whether its networks say which classes they know, by their names."""

    @classmethod
    def names(cls, text: str) -> bool:
        """Whether a text is one of this source's."""
        prefix, _, name = text.partition(":")
        return prefix == cls.prefix and bool(name)

    @property
    def name(self) -> str:
        """What the text says after its prefix."""
        return self.text.partition(":")[2]

    @property
    def rebuilt_as(self) -> str:
        """The text by which a saved network is built again."""
        return self.text

    def rebuilt_with(self, built: Built, request: Request) -> dict[str, object]:
        """The ``model_args`` with which a saved network is built again, from what was built as requested."""
        return dict(request.model_args)

    def output_names(self, built: Built) -> list[str]:
        """What the outputs of its pretrained network are called; empty where it does not say."""
        return []

    @abstractmethod
    def check(self) -> None:
        """Say what cannot be found, without building anything.

        Raises:
            ModelError: as :meth:`build` would.
        """

    @abstractmethod
    def build(self, request: Request) -> Built:
        """The network.

        Raises:
            ArgumentError, ModelError: there is none, or it cannot be built so.
        """


class FileSource(ModelSource):
    """A network in a file of its own, on pixels in [0, 1]: an exported classifier has its normalisation inside."""

    kind: ClassVar[str]
    """What the file is, for a person."""

    def check(self) -> None:
        """See :meth:`ModelSource.check`."""
        if not Path(self.name).is_file():
            raise ModelError(f"{self.text}: not found; give the path of {self.kind}")
