"""A flip is a flip everywhere: each adversarial image that is kept flips for the plain model, asked about it alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from attack_cases import shorter
from temper import data, models
from temper.attacks.suites import SUITES, Stage, Suite
from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays, from_dataset
from temper.threat import NORMS, Threat

pytestmark = [
    pytest.mark.slow,
    pytest.mark.numerical,
    pytest.mark.filterwarnings("ignore::temper.errors.TemperWarning"),  # of networks whose gradients are masked
]

NAMES = (
    "resnet20", "resnet32", "resnet44", "resnet56", "cifar_cnn_a_adv", "cifar_cnn_a_mix", "cifar_resnet4b",
    "cifar_oval_base", "cifar_marabou_small", "cifar_vit_pgd_2_3_16", "cifar_kw_l2_36px", "mnist_lenet5_advtrained",
    "mnist_lenet5_clntrained", "mnist_smallcnn_standard", "mnist_smallcnn_trades", "mnist_oscarknagg_linf",
    "mnist_kw_01", "mnist_conv_small_diffai",
)  # fmt: skip
DEEP = ("resnet32", "resnet44", "resnet56")  # one norm each: they take longer than all others together
# Two radii next to each other: flips at the one are brought closer before the other is looked at.
RADII = {"cifar": {"Linf": 16 / 255, "L2": 2.0, "L1": 40.0}, "mnist": {"Linf": 0.5, "L2": 8.0, "L1": 120.0}}
STEPS, COUNT = 6, 2


def shortened(suite: Suite) -> Suite:
    """The suite with runs of a few steps: what they end with is brought to the boundary all the same."""

    def short(stage: Stage) -> Stage:
        attack = stage.attack
        return replace(stage, attack=shorter(attack, STEPS, runs=2))

    closer = suite.closer and short(suite.closer)
    return replace(suite, stages=tuple(map(short, suite.stages)), closer=closer)


def refuted(folder, network, images: torch.Tensor, kind: str, suite: str, norms) -> tuple[int, list[str]]:
    """How many flips are kept, and those of which the plain model, asked about them alone, says otherwise."""
    with torch.no_grad():
        labels = network.eval()(images).argmax(1)
    threats = [Threat(norm, share * RADII[kind][norm]) for norm in norms for share in (0.95, 1)]
    done = measure(network, from_arrays(images, labels), threats, shortened(SUITES[suite]), 0, adversarial=folder)
    kept, wrong = 0, []
    for norm, path in done.pack().items():
        with np.load(path, allow_pickle=False) as arrays:
            rows = [arrays[name] for name in ("images", "prediction", "adversarial_prediction", "sample")]
        for image, prediction, becomes, sample in zip(*rows, strict=True):
            with torch.no_grad():
                logits = network(torch.from_numpy(image)[None])[0]
            right = logits[becomes] > logits[prediction] and logits.argmax() == becomes
            kept, wrong = kept + 1, wrong + ([] if right else [f"{norm}, sample {sample}"])
    return kept, wrong


@pytest.mark.parametrize("suite", ["fast", "margin"])
@pytest.mark.parametrize("name", NAMES)
def test_each_image_that_is_kept_flips_alone(shared_data, network, tmp_path, name, suite):
    kind = name.partition("_")[0] if name.startswith("mnist") else "cifar"
    source = "mnist_test" if kind == "mnist" else "cifar10_test"
    with np.load(shared_data / "images" / f"{source}.npz") as arrays:
        images = torch.from_numpy(arrays["images"][:COUNT].transpose(0, 3, 1, 2) / np.float32(255))
    norms = ("Linf",) if name in DEEP else tuple(NORMS)
    kept, wrong = refuted(tmp_path, network(name), images, kind, suite, norms)
    assert kept >= COUNT
    assert not wrong


def test_the_list_has_every_network(shared_data):
    assert sorted(json.loads((shared_data / "networks.json").read_text())) == sorted(NAMES)


@pytest.mark.parametrize("suite", ["fast", "margin"])
def test_so_does_each_of_the_bundled_network(tmp_path, suite):
    network = models.load("bundled", seed=0)
    images = from_dataset(data.load("digits").limit(COUNT, 0), network).few(COUNT)
    kept, wrong = refuted(tmp_path, network, images, "cifar", suite, tuple(NORMS))
    assert kept >= COUNT
    assert not wrong


def test_so_does_each_of_a_network_for_photos(shared_data, tmp_path):
    weights = shared_data / "backbones/mobilenetv2_100.safetensors"
    network = models.load(f"timm:mobilenetv2_100@{weights}", image_size=112)  # a quarter of the time at its own size
    photos = data.load(str(shared_data / "images/imagenet_sample1000.zip")).limit(1, 0)
    kept, wrong = refuted(tmp_path, network, from_dataset(photos, network).few(1), "cifar", "margin", ("Linf",))
    assert kept == 1
    assert not wrong
