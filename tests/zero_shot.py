"""A small random image tower with text embeddings, which tests write to where they work."""

import json

import torch
from safetensors.torch import save_file

from temper import models

TOWER = "clip:vit_base_patch16_clip_224.openai"
ARGS = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "mlp_ratio": 1.0}
NAMES = tuple("0123456789")
D = 512  # of the projection


def write_texts(path, names=NAMES, dimensions=D, **more):
    embeddings = torch.randn(len(names), dimensions, generator=torch.Generator().manual_seed(0))
    save_file({"embeddings": embeddings, **more}, path, {"class_names": json.dumps(names)})


def load(text=f"{TOWER}+texts.safetensors", **options):
    return models.load(text, **({"weights": "none", "model_args": ARGS, "image_size": 8} | options))


def images(count=3):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
