"""Settings in YAML files, read with care: they may come from anywhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from temper.errors import ArgumentError

#: How a configuration that Temper wrote begins. One that was cut short is YAML still, and would mean the defaults.
WHOLE = "# A run of Temper; whole only where the last line is ...\n"

#: A file of settings is no larger, and its aliases stand for no more values: 445 bytes of nested ones can take 2 GB.
YAML_BYTES, YAML_NODES = 10_000_000, 100_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also counts what aliases stand for."""

    def compose_document(self) -> yaml.Node | None:
        root = super().compose_document()
        if root is not None and _size(root, {}) > YAML_NODES:
            raise yaml.YAMLError(f"its aliases stand for more than {YAML_NODES:,} values; write them out")
        return root


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes below and with this one, each as often as an alias repeats it; one within itself is endless."""
    if id(node) not in known:
        known[id(node)] = YAML_NODES + 1  # while it is being counted
        below = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for each in below for part in (each if isinstance(each, tuple) else (each,)))
        known[id(node)] = min(1 + sum(_size(part, known) for part in parts), YAML_NODES + 1)
    return known[id(node)]


def read_yaml(path: Path, argument: str = "config") -> Mapping[str, Any]:
    """The mapping in a YAML file; an ArgumentError about ``argument`` where there is none.

    At most :data:`YAML_BYTES` are read, and :data:`YAML_NODES` values, those repeated by aliases included.
    """
    try:
        with path.open("rb") as file:
            text = file.read(YAML_BYTES + 1)
        if len(text) > YAML_BYTES:
            raise ArgumentError(argument, str(path), f"is larger than {YAML_BYTES:,} bytes; name a file of settings")
        if text.startswith(WHOLE.encode()) and not text.rstrip().endswith(b"\n..."):
            raise ArgumentError(argument, str(path), "was cut short (its last line is not ...); restore it")
        content = yaml.load(text.decode(), _Loader)
    except OSError as error:
        raise ArgumentError(argument, str(path), f"cannot be read ({error.strerror}); name a YAML file") from None
    except RecursionError:
        raise ArgumentError(argument, str(path), "is nested too deeply; name a file of settings") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArgumentError(argument, str(path), f"is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        raise ArgumentError(argument, str(path), "is empty; write the settings into it, or restore it")
    if not isinstance(content, Mapping):
        raise ArgumentError(argument, str(path), "must hold key: value lines at its top level")
    return content
