"""What a benchmark's runs have in common, by name: data for :mod:`temper.benchmark.spec`, printable and overridable.

- ``temper``: what we would recommend today: Epsilon-Scheduling beside fixed epsilon, the backbone's own normalisation,
  augmentation on load, one learning rate for backbones of all kinds unless they are searched, Temper's fast suite.
- ``guide``: the study arXiv:2508.14079 with its errors corrected: each backbone's own normalisation, augmentation once,
  every network with its weights, an effective batch of 1,024 for both losses.
- ``guide-exact``: as published, to compare with: normalisation by name, augmentation frozen once and then doubled, two
  networks at random weights, TRADES with twice the batch. Its loss of workers' results is not repeated: those numbers
  were never what the networks did.
"""

Settings = dict[str, object]  # nested, of a SPEC or of a run; what they say is checked by the schema that they fill

GUIDE_PROTOCOLS: dict[str, Settings] = {
    "full-50": {"protocol": {"name": "full"}, "epochs": 50},
    "full-5": {"protocol": {"name": "full"}, "epochs": 5},
    "linear-50": {"protocol": {"name": "linear"}, "epochs": 50},
}
GUIDE_THREATS = {"linf": "Linf:4/255", "l2": "L2:2", "l1": "L1:75"}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
# Built as bare encoders and given a classifier's weights, of which none fitted (the facts sheet, section 2).
UNTRAINED = ("efficientnet-b0", "mobilevit-small")

_GUIDE_FINETUNE: Settings = {
    "eps": "4/255",
    "attack": {"name": "apgd", "steps": 10, "random_start": False},
    "data": {"augmentation": "paper", "split_seed": 0},
    "model": {"image_size": 224},
    "batch_size": 1024,
    "optimiser": {
        "betas": (0.9, 0.95), "warmup": 0.0, "lr_schedule": "constant",
        "backbone_lr": 1.2164941464151844e-4, "head_lr": 3.995972283135062e-3,
        "backbone_weight_decay": 1.0010539860510488e-6, "head_weight_decay": 1.6193110912440726e-5,
    },
}  # fmt: skip

_GUIDE: Settings = {
    "objectives": ["at", "trades-guide"],
    "schedules": ["fixed"],
    "protocols": GUIDE_PROTOCOLS,
    "seeds": [1],
    "finetune": _GUIDE_FINETUNE,
    "measure": {"threats": GUIDE_THREATS, "suite": "standard", "points": 4, "tau": 256, "limit": 1000},
}

PRESETS: dict[str, Settings] = {
    "temper": {
        "objectives": ["at", "trades"],
        "schedules": ["fixed", "hinge"],
        "protocols": {
            "full": {"protocol": {"name": "full"}, "epochs": 50},
            "linear": {"protocol": {"name": "linear"}, "epochs": 50},
        },
        "seeds": [0, 1, 2],
        "finetune": {"eps": "4/255", "attack": {"name": "apgd"}, "data": {"split_seed": 0}},
        "measure": {"threats": GUIDE_THREATS, "suite": "fast", "points": 8, "tau": 256, "limit": 1000},
    },
    "guide": _GUIDE,
    "guide-exact": _GUIDE
    | {
        "finetune": _GUIDE_FINETUNE
        | {"data": {"augmentation": "paper-twice", "split_seed": 0}, "model": {"image_size": 224} | IMAGENET},
        "exceptions": [
            {"where": {"objective": "trades-guide"}, "finetune": {"batch_size": 2048}},
            {"where": {"backbone": ["*laion*"]}, "finetune": {"model": CLIP}},
            {"where": {"backbone": [*UNTRAINED]}, "finetune": {"model": {"weights": "none"}}},
        ],
    },
}


def preset_exceptions(preset: str) -> list[object]:
    """The cells that differ in a preset; they stand before those of a SPEC."""
    exceptions = PRESETS[preset].get("exceptions", [])
    assert isinstance(exceptions, list)
    return exceptions
