"""Beside the reference: what AutoAttack's gradient attacks break, the suites break too, sample by sample.

A few samples and two of its attacks only; benchmarks/evaluation compares all of it."""

import numpy as np
import pytest
import torch
from cases import Case, load, pixels
from reference import autoattack

from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.threat import Threat

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 3 / 255), ("L2", 0.4)])
def test_fast_breaks_what_autoattack_breaks(shared_data, norm, eps):
    pytest.importorskip("pyautoattack", reason="needs the reference attacks: pip install pyautoattack")
    case = Case("cifar_cnn_a_adv", "cifar10_test", norm, eps, 40)
    network, images, labels = load(case, shared_data)
    with torch.random.fork_rng():
        theirs = autoattack(
            network, pixels(images), torch.from_numpy(labels), norm, eps, 40, attacks=("apgd-ce", "apgd-t")
        ).broken
    frame = measure(network, from_arrays(images, labels), [Threat(norm, eps)], "fast", 0).table.frame
    ours = ((frame["label"] != frame["prediction"]) | (frame["upper"] <= eps)).to_numpy()
    assert 0.3 < theirs.mean() < 0.9
    assert np.flatnonzero(theirs & ~ours).tolist() == []
