"""Networks whose robustness is proven, or disproven, by complete verifiers: no attack may break what is proven, and
the strong suites must break what is known to break."""

import numpy as np
import pytest
import torch
from proven import INSTANCES, attacked, instances_of, network

from temper.attacks.fab import FABTargeted
from temper.attacks.fmn import FMN
from temper.attacks.suites import SUITES, Stage, Suite

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("suite", ["fast", "margin", "apgd", "pgd"])
@pytest.mark.parametrize("instances", INSTANCES)
def test_no_attack_breaks_what_is_proven(shared_data, instances, suite, half):
    """In bf16 too, emulated where the hardware has none; the full standard suite is for benchmarks/evaluation."""
    if half and not any(half in stage.bears for stage in SUITES[suite].stages):
        pytest.skip(f"{suite} searches at full precision only")
    x, y, eps = instances_of(shared_data, instances, "robust")
    assert len(x) >= 5
    inside = eps * (1 - 1e-4)  # the boxes are known to about 1e-7
    found = attacked(network(shared_data, instances), x, y, inside, SUITES[suite], half=half)
    assert (found.upper > inside).all()
    if suite != "margin":
        assert (found.survived() >= inside).all()


@pytest.mark.parametrize("instances", INSTANCES)
def test_no_search_for_the_nearest_flip_reports_less_than_the_proven_radius(shared_data, instances):
    stages = (
        Stage("fab-t", FABTargeted(15, runs=3), random_start=False),
        Stage("fmn", FMN(30), random_start=False),
    )
    x, y, eps = instances_of(shared_data, instances, "robust")
    found = attacked(network(shared_data, instances), x, y, eps, Suite("nearest", stages), half=None)
    assert (found.upper > eps * (1 - 1e-4)).all()
    assert np.isfinite(found.upper).mean() > 0.7


@pytest.mark.parametrize("instances", ["oval21__cifar_base_kw", "mnistfc21__mnist-net_256x2"])
def test_fast_breaks_what_is_known_to_break(shared_data, instances):
    x, y, eps = instances_of(shared_data, instances, "broken")
    assert len(x) >= 2
    radius = eps * (1 + 1e-4)
    found = attacked(network(shared_data, instances), x, y, radius, SUITES["fast"], half=None)
    assert (found.upper <= radius).all()
