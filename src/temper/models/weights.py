"""Weights from files: read without unpickling, and loaded strictly."""

import logging
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from temper.errors import ModelError
from temper.models.heads import outputs_of, replace_head
from temper.text import listed

log = logging.getLogger(__name__)

# Where training scripts put the state dict inside a checkpoint, and what wrappers put before its names.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
# What training scripts keep beside a network: no output depends on it.
_BESIDE = re.compile(r"(?:criterion|loss|loss_fn|loss_func|loss_function|optimizer)\..*|n_averaged")
# What repositories of robust networks put around one that normalises by itself: Sequential(normaliser, network) with
# and without names (nmndeep/revisiting-at, thu-ml/ares), and an attacker that holds a second copy of everything
# (MadryLab/robustness).
_NORMALISED_PREFIXES = (*_PREFIXES, "base_model.", "1.")
_COMPILED = "_orig_mod."  # torch.compile's, before whatever was compiled: the whole network or layers of it
_NORMALISER = re.compile(r"(?:normalize|normalizer|0)\.(?:new_)?(mean|std)")
_ATTACKER = "attacker."

Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation per channel, in [0, 1] pixel units."""


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
    if _is_program(path):
        raise ModelError(
            f"weights file {path}: a whole program (TorchScript or torch.export), not weights: it is a model of its"
            f" own, torch:{path}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"weights file {path}: no torch checkpoint, or one with Python objects (a whole model that was pickled, or"
            " settings beside its tensors), which would run as code; where you trust it, keep only its tensors, with"
            f" the packages that wrote it installed: {_tensors_kept(path)}"
        ) from error
    except Exception as error:  # torch takes any bytes for a program, and fails as they have it
        raise ModelError(
            f"weights file {path}: damaged, or no torch checkpoint; name another file, or copy it again"
        ) from error
    return _state_dict(content, path)


def _tensors_kept(path: Path) -> str:
    """The Python that a person can run to keep the tensors of a checkpoint that holds more."""
    return (
        f"import torch; saved = torch.load({str(path)!r}, map_location='cpu', weights_only=False);"
        " saved = saved.get('model', saved.get('state_dict', saved)) if isinstance(saved, dict) else saved;"
        f" torch.save(getattr(saved, 'state_dict', lambda: saved)(), {f'{path.stem}-tensors.pt'!r})"
    )


def _is_program(path: Path) -> bool:
    """Whether a file is an archive of TorchScript or torch.export."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError):
        return False
    return "models/model.json" in names or any(name.startswith("code/") for name in names)


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    for container in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            return _state_dict(content[container], path)
    if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        return dict(content)
    contents = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
    raise ModelError(
        f"weights file {path}: holds {contents}, not a state dict; expected names and tensors, alone or under"
        f" one of {', '.join(_CONTAINERS)}"
    )


def load_weights(
    network: nn.Module,
    path: str | Path,
    head: Sequence[str],
    num_classes: int | None,
    normalisation: Normalisation | None = None,
) -> dict[str, float | str]:
    """Load a weights file into a network: the whole backbone or nothing; only the head may differ.

    The network ends up with ``num_classes`` outputs (None: as many as the file). The file's head is taken if
    it has that many, else the head is fresh. Where ``normalisation`` is given, the file may hold a network that
    normalises by itself, in the wrappers of the repositories of robust networks, and must do it with these numbers.

    Returns:
        {"loaded": share of the network's numbers that the file gave, "head": "kept" or "fresh"}.

    Raises:
        ModelError: a tensor of the backbone is missing or has another shape, or the file has tensors that the
            network has no place for; the message lists the first few. Or it normalises in another way.
    """
    return fit_weights(network, load_tensors(path), path, head, num_classes, normalisation)


def fit_weights(
    network: nn.Module,
    tensors: dict[str, Tensor],
    path: str | Path,
    head: Sequence[str],
    num_classes: int | None,
    normalisation: Normalisation | None = None,
) -> dict[str, float | str]:
    """As :func:`load_weights`, of tensors that were read from ``path`` already."""
    expected_names = set(network.state_dict())
    if normalisation is not None:
        tensors = _unwrap(tensors, expected_names, normalisation, path)
    tensors = _modern_swin(_fit_names(tensors, expected_names, path))
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


def _fit_names(tensors: dict[str, Tensor], expected: set[str], path: str | Path) -> dict[str, Tensor]:
    """Strip what wrappers put before every name, while no name fits, and drop what only training needs.

    What was stripped is said in the log.

    Raises:
        ModelError: some of the tensors would fit the network, but there are others beside them.
    """
    as_they_are = tensors
    tensors = {name.replace(_COMPILED, ""): tensor for name, tensor in tensors.items()}
    stripped = [] if tensors.keys() == as_they_are.keys() else [_COMPILED]
    while expected.isdisjoint(tensors):
        tensors = {name: tensor for name, tensor in tensors.items() if not _BESIDE.fullmatch(name)}
        parts = {name.partition(".")[0] for name in tensors}
        if len(parts) > 1 and not any(map(_NORMALISER.fullmatch, tensors)):  # a normaliser is no other network
            _check_one_network(tensors, parts, expected, path)
        if len(parts) != 1 or not all("." in name for name in tensors):
            return as_they_are
        stripped += [f"{part}." for part in parts]
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    tensors, beside = _without_backbone(tensors, expected)
    if stripped or beside:
        log.info("weights file %s: its names are read without %s", path, " and ".join([*stripped, *beside]))
    return {name: tensor for name, tensor in tensors.items() if name in expected or not _BESIDE.fullmatch(name)}


def _without_backbone(tensors: dict[str, Tensor], expected: set[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with one module's name stripped where they then fit to the last one: the body of a network that was
    kept apart from its head, as ``backbone.``; and what was stripped."""
    strangers = sorted({name.partition(".")[0] for name in tensors if name not in expected and "." in name})
    for part in strangers:
        renamed = {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items()}
        if len(renamed) == len(tensors) and all(name in expected or _BESIDE.fullmatch(name) for name in renamed):
            return renamed, [f"{part}."]
    return tensors, []


def _check_one_network(tensors: dict[str, Tensor], parts: set[str], expected: set[str], path: str | Path) -> None:
    def fits(name: str) -> bool:
        words = name.split(".")
        return any(".".join(words[start:]) in expected for start in range(1, len(words)))

    fitting = sorted({name.partition(".")[0] for name in tensors if fits(name)})
    if fitting:
        raise ModelError(
            f"weights file {path}: the network's tensors are in it under {listed(fitting)}, but {listed(sorted(parts))}"
            " stand side by side; keep those of one network alone"
        )


def _unwrap(
    tensors: dict[str, Tensor], expected: set[str], normalisation: Normalisation, path: str | Path
) -> dict[str, Tensor]:
    """The network's own tensors, without wrappers, their normalisation (checked) and an attacker's copy of it all."""
    while True:
        normaliser = {name: match[1] for name in tensors if (match := _NORMALISER.fullmatch(name))}
        for name, statistic in normaliser.items():
            _check_normalisation(name, tensors[name], normalisation[statistic == "std"], path)
        tensors = {
            name: tensor
            for name, tensor in tensors.items()
            if name not in normaliser and not name.startswith(_ATTACKER)
        }
        prefix = next(
            (known for known in _NORMALISED_PREFIXES if all(name.startswith(known) for name in tensors)), None
        )
        if prefix is None or not expected.isdisjoint(tensors) or not tensors:
            return tensors
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _check_normalisation(name: str, statistic: Tensor, expected: Sequence[float], path: str | Path) -> None:
    values = statistic.double().flatten().tolist()
    if len(values) != len(expected) or any(
        abs(one - other) > 1e-4 for one, other in zip(values, expected, strict=True)
    ):
        raise ModelError(
            f"weights file {path}: its network normalises with {name} = {[round(value, 4) for value in values]},"
            f" not {list(expected)}; is it the file of another model?"
        )


def _modern_swin(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of Swin transformers in timm before 0.9 made today's.

    Then a stage ended with the downsampling that now begins the next one, the head had no ``fc`` in it, and constant
    tables were saved too.
    """
    if "layers.0.downsample.reduction.weight" not in tensors:
        return tensors
    modern: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(("relative_position_index", "attn_mask")):
            continue
        name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda match: f"layers.{int(match[1]) + 1}.downsample.", name)
        modern[re.sub(r"^head\.", "head.fc.", name)] = tensor
    return modern


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
        misfits = "; ".join(f"{what}: {listed(names)}" for what, names in problems.items() if names)
        raise ModelError(
            f"weights file {path}: does not fit the network ({misfits}); only the head may differ:"
            " check the model's name and arguments"
        )
