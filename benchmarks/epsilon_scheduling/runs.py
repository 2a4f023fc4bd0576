"""The runs of this benchmark, as configurations."""

from pathlib import Path
from typing import Any

EPOCHS = 16
SEEDS = (0, 1, 2)

# name: (objective, schedule). Shares of training; the schedule moves per step unless it says otherwise.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", {"name": "fixed"}),
    "fixed": ("at", {"name": "fixed"}),
    "hinge": ("at", {"name": "hinge", "start": 0.25, "end": 0.75}),
}
# Schedules that might win at the full epsilon, too.
CANDIDATES: dict[str, tuple[str, dict[str, Any]]] = {
    "short": ("at", {"name": "linear", "end": 0.25}),
    "margin": ("at", {"name": "margin", "end": 0.25}),
}
PER_EPOCH: dict[str, tuple[str, dict[str, Any]]] = {
    "hinge-per-epoch": ("at", {"name": "hinge", "start": 0.25, "end": 0.75, "per": "epoch"}),
}
# (T1, T2) of the ablation; (0, 0) is "fixed" and (0.25, 0.75) is "hinge" above.
GRID: dict[str, tuple[str, dict[str, Any]]] = {
    f"grid-{start:g}-{end:g}": ("at", {"name": "hinge", "start": start, "end": end})
    for start, end in ((0.25, 0.25), (0.5, 0.5), (0.0, 1.0))
}


def configuration(name: str, seed: int, data: Path, out: Path) -> dict[str, Any]:
    """The configuration of one run: CIFAR-10 ResNet-20 to 20 classes of CIFAR-100, Linf 8/255, PGD-5.

    Args:
        name: a key of METHODS, CANDIDATES, PER_EPOCH or GRID.
        data: folder with ``images`` and ``networks``.
        out: folder of all runs.
    """
    objective, schedule = (METHODS | CANDIDATES | PER_EPOCH | GRID)[name]
    return {
        "out": out / f"{name}-seed{seed}",
        "model": {
            "name": "backbone:resnet20",
            "weights": str(data / "networks" / "resnet20.safetensors"),
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "image_size": 32,
        },
        "data": {
            "train": str(data / "images" / "cifar100_20classes_train.npz"),
            "test": str(data / "images" / "cifar100_20classes_test.npz"),
            "train_limit": 5000,
            "test_limit": 1000,
        },
        "norm": "Linf",
        "eps": "8/255",
        "objective": {"name": objective},
        "schedule": schedule,
        "attack": {"name": "pgd", "steps": 5},
        "optimiser": {"backbone_lr": 2e-3, "head_lr": 2e-3},
        "epochs": EPOCHS,
        "batch_size": 128,
        "precision": "fp32",
        "seed": seed,
    }
