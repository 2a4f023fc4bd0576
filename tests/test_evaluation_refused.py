"""What cannot be measured, and models that hide their gradients."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from measured import Linear, pictures, predictions
from temper.errors import ArgumentError, ModelError, TemperWarning
from temper.evaluation import measurement

pytestmark = pytest.mark.numerical
evaluate = functools.partial(measurement.evaluate, suite="apgd")


class Fixed(nn.Module):
    """A linear model whose output goes through a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.linear, self.function = Linear(), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.linear(x))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.full((1, 3, 4, 4), 1.5), [0], r"images = '1.5 to 1.5': must lie in \[0, 1\]; normalisation belongs"),
        (torch.full((1, 3, 4, 4), float("nan")), [0], "images = 'nan to nan'"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [0], "give a uint8 NHWC array or a float NCHW tensor"),
        (np.zeros((1, 4, 4, 3)), [0], "ndarray float64 .*give a uint8 NHWC array"),
        (np.zeros((4, 4, 3), np.uint8), [0], "give a uint8 NHWC array"),
        ([[0]], [0], "list .*give a uint8 NHWC array"),
        (torch.zeros(0, 3, 4, 4), [], "give at least one image"),
        (torch.zeros(2, 3, 4, 4), [0], "labels = 'int64 .1,.': give one integer for each of 2 images"),
        (torch.zeros(2, 3, 4, 4), [0.0, 1.0], "labels = 'float64 .2,.': give one integer"),
        (torch.zeros(2, 3, 4, 4), [0, 3], "label = 3: of sample 1: the model has classes 0 to 2"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0, -1]), "label = -1: of sample 1"),
    ],
)
def test_what_is_no_labelled_images_is_refused(images, labels, message):
    with pytest.raises(ArgumentError, match=message) as error:
        evaluate(Linear(), images, labels, "Linf:0.1")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("threats", "suite", "message"),
    [
        ("Linf", "apgd", "threat = 'Linf': write NORM:EPS"),
        ("L3:0.1", "apgd", "threat = 'L3': choose one of"),
        ("Linf:0", "apgd", "must be above 0"),
        ([], "apgd", "name at least one"),
        ("Linf:0.1", "best", "suite = 'best': choose one of standard, fast, margin, apgd, pgd"),
    ],
)
def test_threats_and_suites_that_are_none_are_refused(threats, suite, message):
    with pytest.raises(ArgumentError, match=message):
        evaluate(Linear(), pictures(1), [0], threats, suite=suite)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Fixed(lambda z: z / 0), r"not finite on samples \[0, 1\]"),
        (Fixed(lambda z: z.argmax(1)), r"returned shape \(2,\) for 2 images"),
        (Fixed(lambda z: z[:, :, None]), r"returned shape \(2, 3, 1\)"),
        (Fixed(lambda z: (z, z)), "returned tuple"),
        (Linear().half(), "weight is torch.float16; evidence needs full precision"),
        (Linear().double(), "weight is torch.float64; evidence needs full precision"),
    ],
)
def test_models_without_usable_logits_are_refused(model, message):
    with pytest.raises(ModelError, match=message):
        evaluate(model, pictures(2), [0, 0], "Linf:0.1")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: z.softmax(1), "probabilities: attacks lose their gradient"),
        (lambda z: z + torch.rand_like(z), "the model is random: its logits change by"),
        (lambda z: (z * 4).round() + 0 * z, "no gradient on 2 of the first 2 samples"),
        (lambda z: z * 1e4, "no gradient on 2 of the first 2 samples"),
    ],
)
def test_models_that_hide_their_gradients_are_told(function, message):
    images = pictures(2)
    model = Fixed(function)
    with torch.random.fork_rng(), pytest.warns(TemperWarning, match=message):
        evaluate(model, images, predictions(Linear(), images), "Linf:1e-4")


def test_a_batch_of_none_is_refused():
    with pytest.raises(ArgumentError, match="batch_size = 0: must be at least 1"):
        evaluate(Linear(), pictures(1), [0], "Linf:0.1", batch_size=0)


def test_path_of_a_model_that_is_not_there(tmp_path: Path):
    with pytest.raises(ArgumentError, match="must be a run folder that exists"):
        evaluate(tmp_path / "nothing", pictures(1), [0], "Linf:0.1")
