"""What a search of hyper-parameters judges a trial by: accuracy under attack, of the weights that a run would save."""

import numpy as np
import pytest
import torch

from search_grid import FINETUNE, carried_out, grid
from temper import models
from temper.attacks.apgd import APGD
from temper.attacks.attack import perturb
from temper.benchmark import search as module
from temper.benchmark.search import accuracies
from temper.core.randomness import sample_keys
from temper.data import Pixels
from temper.runs.finetune import load_backbone, make_fabric, make_schedule
from temper.training.session import Task
from temper.training.splits import load_splits


def test_accuracies_are_those_of_the_attack_on_the_whole():
    (cell,) = grid()
    validation = load_splits(cell.config.data, 0).validation
    classifier = models.load("bundled", seed=0)
    images, labels, ids = zip(*Pixels(validation, classifier.image_size, classifier.channels), strict=True)
    x, y = torch.stack(images).float() / 255, torch.tensor(labels)
    classifier.eval()
    with torch.no_grad():
        right = classifier(x).argmax(1) == y
    keys = sample_keys(0, torch.tensor(ids), "search")
    moved = perturb(APGD(10), classifier, x, y, cell.config.eps, "Linf", keys=keys, keep_flips=True)
    with torch.no_grad():
        still = right & (classifier(moved).argmax(1) == y)
    expected = right.float().mean().item(), still.float().mean().item()
    classifier.train()
    # One batch of 32, as in training, and a rest.
    assert accuracies(classifier, validation, cell.config, attacked=True) == pytest.approx(expected)
    assert accuracies(classifier, validation, cell.config, attacked=False) == pytest.approx((expected[0],) * 2)
    assert expected[0] > expected[1] > 0
    assert all(each.training for each in classifier.modules())


def test_logits_that_are_not_finite_are_wrong():
    (cell,) = grid()
    validation = load_splits(cell.config.data, 0).validation
    classifier = models.load("bundled", seed=0)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.fill_(np.nan)
    assert accuracies(classifier, validation, cell.config, attacked=True) == (0.0, 0.0)


@pytest.mark.slow
def test_the_averaged_weights_are_judged(monkeypatch, tmp_path):
    (cell,) = grid(trials=1, finetune=FINETUNE | {"optimiser": {"ema": 0.5}})
    judged, ends = [], []
    real = module.train

    def look(classifier, *_, **__):
        judged.append({name: value.clone() for name, value in classifier.state_dict().items()})
        return 0.5, 0.5

    def train(fabric, task, classifier, within=None):
        real(fabric, task, classifier, within)
        ends.append(classifier.state_dict())  # train leaves the average there

    monkeypatch.setattr(module, "accuracies", look)
    monkeypatch.setattr(module, "train", train)
    carried_out(cell, tmp_path)
    assert all(torch.equal(judged[-1][name], value.cpu()) for name, value in ends[0].items())


@pytest.mark.slow
def test_judging_changes_nothing_in_the_training(tmp_path):
    (cell,) = grid(finetune=FINETUNE | {"optimiser": {"ema": 0.5}})
    config, splits = cell.config, load_splits(cell.config.data, 0)

    def trained(folder, hook):
        folder.mkdir()
        classifier = load_backbone(config, splits)
        schedule = make_schedule(config.schedule, 0)
        task = Task(config, schedule, folder, splits, hook)
        with torch.random.fork_rng():
            module.train(make_fabric(config, folder), task, classifier)
        return classifier.state_dict()

    judged = []
    plain = trained(tmp_path / "plain", None)
    hooked = trained(
        tmp_path / "hooked",
        lambda *now: judged.append((now[1], accuracies(now[0], splits.validation, config, attacked=True))),
    )
    assert [epoch for epoch, _ in judged] == [1, 2]
    assert all(torch.equal(plain[name], value) for name, value in hooked.items())
