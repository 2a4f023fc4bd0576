"""What a program from outside may hold: TorchScript and torch.export archives, looked through before torch reads one.

Both are programs. torch reads parts of a ``.pt2`` with pickle, evaluates expressions in it as Python, writes Python
with its names, and starts compiled libraries; TorchScript can read and write files. So an archive that holds anything
but a graph of torch's own operators and plain tensors is refused, by what is in it, not by what its file is called.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator

import torch

from temper.core.files import JsonObject
from temper.errors import ModelError
from temper.text import first_line, one_line

# Of torch.export: what an archive of torch 2.8 and later holds beside its graph. Weights and constants are bare bytes,
# or those that torch's weights-only loader reads.
_GRAPH = "models/model.json"
_TENSORS = ("data/sample_inputs/model.pt", "data/weights/model.pt", "data/constants/model.pt")
_PLAIN = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+|data/(?:weights|constants)/model_(?:weights|constants)_config\.json"
    r"|extra/[\w.-]+|archive_format|archive_version|version|byteorder|\.data/\w+"
)
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_STORED = re.compile(r"weight_\d+|tensor_\d+")
# Operators that compute, and nothing else: torch's own and torchvision's, arithmetic on sizes, and what wraps parts
# of a graph.
_OPERATORS = re.compile(
    r"torch\.ops\.(?:aten|prims|torchvision|quantized_decomposed)\.(?!__)\w+(?:\.(?!__)\w+)?"
    r"|torch\.ops\.aten\.__(?:i?and|i?or|i?xor)__\.\w+"
    r"|torch\.ops\.higher_order\.(?:wrap_with_set_grad_enabled|wrap_with_autocast|cond|map_impl|while_loop)"
    r"|_operator\.(?:add|sub|mul|truediv|floordiv|mod|neg|pos|pow|getitem|lt|gt|le|ge|eq|ne|and_|or_)"
    r"|math\.\w+|torch\.(?:sym_\w+|_sym_\w+)"
)
_FILES = re.compile(r"(?:from_file|save|load|_save\w*)(?:\.\w+)?")  # operators of torch that touch files
_NAME = re.compile(r"[\w.:+-]*")
_EXPRESSION = re.compile(r"(?:Symbol\('\w+'(?:, \w+=(?:True|False))*\)|[A-Z]\w*\(|\d+|[-+*/(), ])+")
# Strings of a graph that torch only shows, or writes as literals, and guards, which are not asked for (programs.py).
_TEXTS = ("metadata", "as_string", "as_strings", "guards_code", "torch_version")
_TREES = ("in_spec", "out_spec")

# Of TorchScript: words for operators that touch files, and those outside of torch's own and torchvision's, which come
# from libraries or touch the network.
_SCRIPT_STRANGE = re.compile(
    r"\b(?:from_file|save)\b|(?<![\w.])ops\b(?!\.(?:aten|prim|prims|torchvision|quantized)\.)[\W\w]{,20}"
)
_PACKED = 2**28  # bytes that code may unpack to beyond what the file has; tensors are not packed


class Archive:
    """What a file holds, as torch's own reader sees it: another one might see other members in the same bytes.

    Args:
        content: of the file.
        name: what to call it.

    Raises:
        ModelError: it is no archive as torch writes it.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self.name = name
        try:
            self._reader = torch._C.PyTorchFileReader(io.BytesIO(content))
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                unpacked = sum(info.file_size for info in archive.infolist())
        except (RuntimeError, zipfile.BadZipFile) as error:
            reason = first_line(error)
            raise ModelError(
                f"{name}: no TorchScript file, and none of torch.export since torch 2.8 ({reason})"
            ) from error
        if unpacked > len(content) + _PACKED:
            raise ModelError(f"{name}: unpacks to more than it holds, which no file of torch does; export it again")
        self.members: list[str] = self._reader.get_all_records()

    def read(self, member: str) -> bytes:
        """The bytes of a member."""
        content: bytes = self._reader.get_record(member)
        return content

    @property
    def is_script(self) -> bool:
        """Whether it is TorchScript."""
        return "constants.pkl" in self.members


def check_script(archive: Archive) -> None:
    """Raise ModelError where the code of a TorchScript archive could do more than compute."""
    for member in archive.members:
        if member.startswith("code/") and member.endswith(".py"):
            strange = _SCRIPT_STRANGE.search(archive.read(member).decode("utf-8", "replace"))
            if strange:
                raise _more_than_computes(archive.name, strange[0])


def check_exported(archive: Archive) -> None:
    """Raise ModelError where a torch.export archive holds more than a graph of torch's operators and plain tensors."""
    name = archive.name
    if "data.pkl" in archive.members:
        raise ModelError(
            f"{name}: no program, but what torch.save wrote: weights, or a whole model that was pickled; name the"
            f" network that they are of, timm:NAME@{name.removeprefix('torch:')} say"
        )
    for member in archive.members:
        if member not in (_GRAPH, *_TENSORS) and not _PLAIN.fullmatch(member):
            raise ModelError(
                f"{name}: holds {member[:80]!r}, which could run as code; export it with torch.export alone"
            )
    if _GRAPH not in archive.members:
        raise ModelError(
            f"{name}: no TorchScript file, and none of torch.export since torch 2.8; export the model again"
        )
    for member in set(_CONFIGS).intersection(archive.members):
        for entry in _json(archive.read(member), name)["config"].values():
            if entry["use_pickle"] or not _STORED.fullmatch(entry["path_name"]):
                raise ModelError(f"{name}: holds pickled objects, which would run as code; export it without them")
    for member in set(_TENSORS).intersection(archive.members):
        try:
            torch.load(io.BytesIO(archive.read(member)), weights_only=True)
        except Exception as error:  # torch takes any bytes for a program, and fails as they have it
            raise ModelError(
                f"{name}: holds pickled objects in {member}; export it with plain tensors alone"
            ) from error
    _check_graph(_json(archive.read(_GRAPH), name), "", name)


def _check_graph(part: object, key: str, name: str) -> None:
    """Look through a graph: each name, operator and expression in it is nothing but that."""
    if isinstance(part, dict):
        for inner, value in part.items():
            if not _NAME.fullmatch(inner):
                raise _unexpected(name, inner)
            if inner not in _TEXTS:
                _check_graph(value, inner, name)
    elif isinstance(part, list):
        for value in part:
            _check_graph(value, key, name)
    elif isinstance(part, str):
        _check_word(part, key, name)


def _check_word(word: str, key: str, name: str) -> None:
    if key in ("target", "as_operator"):
        if not _OPERATORS.fullmatch(word) or _FILES.fullmatch(word.split(".", 3)[-1]):
            raise _more_than_computes(name, word)
    elif key == "expr_str":
        if not _EXPRESSION.fullmatch(word):
            raise _unexpected(name, word)
    elif key in _TREES and word:
        strange = next((each for each in _leaves(word, name) if not _NAME.fullmatch(each)), None)
        if strange is not None or "defaultdict" in word:
            raise _unexpected(name, strange or "defaultdict")
    elif not _NAME.fullmatch(word):
        raise _unexpected(name, word)


def _leaves(word: str, name: str) -> Iterator[str]:
    """The names in the description of a tree: JSON, with JSON in its texts."""
    waiting: list[object] = [_json(word.encode(), name)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield from part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, str):
            if part.startswith(("[", "{", '"')):
                waiting.append(_json(part.encode(), name))
            else:
                yield part


def _json(content: bytes, name: str) -> JsonObject:
    try:
        read: JsonObject = json.loads(content)
    except ValueError as error:
        raise ModelError(f"{name}: damaged ({error}); export the model again") from error
    return read


def _unexpected(name: str, word: str) -> ModelError:
    return ModelError(f"{name}: has {word[:60]!r} in its graph, where torch writes plain names; export the model again")


def _more_than_computes(name: str, word: str) -> ModelError:
    return ModelError(
        f"{name}: calls {one_line(word[:60])}, which could do more than compute; export it with torch's own operators,"
        " or load the network through a module:factory that you trust"
    )
