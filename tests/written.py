"""Modules that a test writes, and messages that are one line."""


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def write_module(folder, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{code}\n")
