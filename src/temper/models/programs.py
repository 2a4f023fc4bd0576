"""Networks in files of torch: TorchScript, and what torch.export writes."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from temper.errors import ModelError
from temper.models.outputs import main_output
from temper.models.screening import Archive, check_exported, check_script
from temper.text import first_line

log = logging.getLogger(__name__)


class InPieces(nn.Module):
    """A program that was exported for batches of one size: any number of images goes through it, piece by piece.

    Args:
        program: from float [size, C, H, W] to its output.
        size: the number of images that it takes.
    """

    def __init__(self, program: nn.Module, size: int) -> None:
        super().__init__()
        self.program, self.size = program, size

    def forward(self, images: Tensor) -> Tensor:
        """What the program makes of images float [N, C, H, W]; the last piece is filled up with its last image."""
        missing = -len(images) % self.size
        whole = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])
        made = [main_output(self.program(piece), training=False) for piece in whole.split(self.size)]
        logits: Tensor = torch.cat(made)
        return logits[: len(images)]


def read_program(path: Path) -> tuple[nn.Module, tuple[int, ...] | None]:
    """The network in a file of TorchScript or torch.export, told apart by what is in it, and the shape that its images
    must have, [C, H, W]; None where the file does not say.

    The file is looked through first: one that could do more than compute is refused (:mod:`temper.models.screening`).

    Raises:
        ModelError: it cannot be read, holds more than a graph of torch's operators and tensors, or takes something else
            than images.
    """
    name = f"torch:{path}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{name}: cannot be read ({error.strerror}); give the path of a file") from error
    archive = Archive(content, name)
    if archive.is_script:
        check_script(archive)
        return _loaded_script(content, name), None
    check_exported(archive)
    return _loaded_program(content, name)


def _loaded_script(content: bytes, name: str) -> nn.Module:
    with _quiet():
        try:
            network: nn.Module = torch.jit.load(io.BytesIO(content), map_location="cpu")
        except Exception as error:  # torch raises what it likes
            raise _unreadable(name, error) from error
    asked = [each.name for each in network.forward.schema.arguments[1:] if not each.has_default_value()]  # type: ignore[attr-defined]
    if len(asked) != 1:
        raise _no_images_alone(name, asked)
    return network


def _loaded_program(content: bytes, name: str) -> tuple[nn.Module, tuple[int, ...] | None]:
    with _quiet():
        try:
            program = torch.export.load(io.BytesIO(content))
            network: nn.Module = program.module(**_UNGUARDED)
        except Exception as error:  # torch raises what it likes
            raise _unreadable(name, error) from error
    asked = program.graph_signature.user_inputs
    if len(asked) != 1:
        raise _no_images_alone(name, list(map(str, asked)))
    images = next(
        node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name == asked[0]
    )
    if (
        not isinstance(images, Tensor)
        or images.dim() != 4
        or images.dtype != torch.float32
        or images.device.type != "cpu"
    ):
        what = (
            f"{images.dtype} {list(images.shape)} on {images.device}"
            if isinstance(images, Tensor)
            else type(images).__name__
        )
        raise ModelError(f"{name}: takes {what}; export it on the CPU for float32 images [N, C, H, W] in [0, 1]")
    count, *shape = images.shape
    if isinstance(count, int):
        log.warning(
            "%s: was exported for batches of %d, and images go through it %d at a time; to be faster export it for any:"
            " torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim('batch')},))",
            name, count, count,
        )  # fmt: skip
        network = InPieces(network, count)
    return network, tuple(shape) if all(isinstance(side, int) for side in shape) else None


# Guards are Python in the file, which torch would run; what they ask is seen in the shapes above.
_UNGUARDED: dict[str, bool] = {"check_guards": False}


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, torch warns of nothing, such as that TorchScript will go one day: what is wrong comes as an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _unreadable(name: str, error: Exception) -> ModelError:
    reason = first_line(error)[:200]
    return ModelError(
        f"{name}: torch {torch.__version__} cannot read it ({type(error).__name__}: {reason}); export it again with"
        " this torch, on the CPU"
    )


def _no_images_alone(name: str, asked: list[str]) -> ModelError:
    return ModelError(
        f"{name}: takes {len(asked)} inputs ({', '.join(asked)}), and Temper gives images alone: models that texts or"
        " other inputs condition are out of scope; export it with those inputs fixed"
    )
