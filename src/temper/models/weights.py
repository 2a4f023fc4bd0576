"""Weights from files: read without unpickling, and loaded strictly."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from temper.errors import ModelError
from temper.models.heads import outputs_of, replace_head

# Where training scripts put the state dict inside a checkpoint, and what wrappers put before its names.
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file or a torch checkpoint, by name, on the CPU.

    A checkpoint is read with torch's weights-only loader: nothing in it is executed. A state dict kept under
    "state_dict", "model_state_dict" or "model" is taken out.

    Raises:
        ModelError: the file is missing, damaged, holds objects other than tensors, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"weights file {path}: not found; give the path of a .safetensors file or torch checkpoint")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ModelError(f"weights file {path}: damaged ({error}); copy or download it again") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"weights file {path}: no torch checkpoint, or one with Python objects beside its tensors;"
            " save only the state dict, as safetensors or by torch.save(model.state_dict(), path)"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ModelError(f"weights file {path}: damaged or unreadable; copy or download it again") from error
    return _state_dict(content, path)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for container in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            return _state_dict(content[container], path)
    if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        return dict(content)
    found = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
    raise ModelError(
        f"weights file {path}: holds {found}, not a state dict; expected names and tensors, alone or under"
        f" one of {', '.join(_CONTAINERS)}"
    )


def load_weights(
    network: nn.Module, path: str | Path, head: Sequence[str], num_classes: int | None
) -> dict[str, float | str]:
    """Load a weights file into a network: the whole backbone or nothing; only the head may differ.

    The network ends up with ``num_classes`` outputs (None: as many as the file). The file's head is taken if
    it has that many, else the head is fresh.

    Returns:
        {"loaded": share of the network's numbers that the file gave, "head": "kept" or "fresh"}.

    Raises:
        ModelError: a tensor of the backbone is missing or has another shape, or the file has tensors that the
            network has no place for; the message lists the first few.
    """
    tensors = _fit_names(load_tensors(path), set(network.state_dict()))
    if head:
        wanted = num_classes if num_classes is not None else _classes_in(tensors, head[0], path)
        if wanted != outputs_of(network.get_submodule(head[0])):
            replace_head(network, head, wanted)
    expected = network.state_dict()
    in_head = {name for name in expected if name.startswith(tuple(f"{layer}." for layer in head))}
    keep_head = all(name in tensors and tensors[name].shape == expected[name].shape for name in in_head)
    if not keep_head:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in in_head}
    _check_backbone(tensors, expected, in_head, path)
    network.load_state_dict(tensors, strict=False)  # strictly checked above, with a message a person can use
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    loaded = sum(size for name, size in sizes.items() if name in tensors) / sum(sizes.values())
    return {"loaded": loaded, "head": "kept" if keep_head else "fresh"}


def _fit_names(tensors: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """Strip what wrappers put before every name, while no name fits."""
    for prefix in _PREFIXES:
        if expected.isdisjoint(tensors) and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _classes_in(tensors: dict[str, Tensor], head: str, path: str | Path) -> int:
    if f"{head}.weight" not in tensors:
        raise ModelError(f"weights file {path}: has no head ({head}); give num_classes")
    return len(tensors[f"{head}.weight"])


def _check_backbone(
    tensors: dict[str, Tensor], expected: dict[str, Tensor], in_head: set[str], path: str | Path
) -> None:
    # num_batches_tracked only counts; converted weights often come without it, and no output depends on it.
    missing = [
        name
        for name in expected
        if name not in tensors and name not in in_head and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "wrong shape": misshapen}
    if any(problems.values()):
        found = "; ".join(f"{what}: {_first(names)}" for what, names in problems.items() if names)
        raise ModelError(
            f"weights file {path}: does not fit the network ({found}); only the head may differ:"
            " check the model's name and arguments"
        )


def _first(names: list[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
