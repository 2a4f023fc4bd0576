"""Attacks on a detector of brittle decisions: by whoever knows the score that it thresholds.

The detector flags decisions of a low score. An attacker can look for a wrong class *with* a high score, or push up the
score of a decision that stays brittle. Both climb the same thing: be of a given class, and then be sure of it
(arXiv:2406.18451 leaves adaptive attacks to future work; the second rests on the triangle inequality).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from temper.attacks.apgd import APGD
from temper.attacks.attack import perturb
from temper.attacks.ball import exact_distance, into_ball, rows
from temper.attacks.crafting import crafting
from temper.attacks.losses import towards_a_class
from temper.core import randomness
from temper.core.precision import full_precision
from temper.threat import Norm

Scored = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Evasion:
    """The best that was found for each sample.

    Attributes:
        image: float [N, C, H, W]; the clean image where nothing of the class asked for was found.
        score: [N], the highest score of an image that is of the class asked for; -inf where none was found.
        forward, backward: passes spent on all samples together.
    """

    image: Tensor
    score: Tensor
    forward: int
    backward: int


@towards_a_class
def sure_of_target(outputs: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """Below 0 while another class leads (the target's logit less the largest other), then the score.

    Args:
        outputs: [N, K + 1], logits and the score as the last column.
        labels: int64 [N]; they play no part.
        target: int64 [N], the class to be of.
    """
    logits, score = outputs[:, :-1].float(), outputs[:, -1].float()
    of_target = logits.gather(1, target[:, None]).squeeze(1)
    lead = of_target - logits.scatter(1, target[:, None], -torch.inf).amax(1)
    return torch.where(lead > 0, score, lead)


def raise_score(
    model: nn.Module,
    scored: Scored,
    x: Tensor,
    targets: Tensor,
    eps: Tensor,
    norm: Norm,
    *,
    ids: Tensor,
    steps: int,
    restarts: int,
    seed: int,
    enough: float = float("inf"),
) -> Evasion:
    """Look in each ball for the image of highest score among those that are of a given class.

    Args:
        model: the module behind ``scored``, lent for crafting.
        scored: images float [N, C, H, W] in [0, 1] -> (logits [N, K], scores [N]), differentiable.
        x: clean images.
        targets: int64 [N, T], the classes to try one after the other.
        eps: [N], radii in pixel units of [0, 1].
        norm: Linf, L2 or L1.
        ids: int64 [N], the samples' ids; with ``seed`` they name the random starts.
        steps: of each APGD run.
        restarts: runs per class; the first starts at the image, the others at random points.
        seed: of the random starts.
        enough: samples whose score is above this are done.
    """
    best, score = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
    forward = backward = 0
    attack = APGD(steps, climbs=sure_of_target, wide=norm == "L1")

    def outputs(images: Tensor) -> Tensor:
        logits, scores = scored(images)
        return torch.cat([logits.float(), scores.float()[:, None]], 1)

    with crafting(model), full_precision(x.device):
        for run in range(restarts):
            for column in range(targets.shape[1]):
                left = torch.nonzero((score <= enough) & (eps > 0)).flatten()
                if not len(left):
                    break
                target = targets[left, column]
                keys = randomness.sample_keys(seed, ids[left], "evasion", norm, run, target) if run else None
                tried = perturb(attack, outputs, x[left], target, eps[left], norm, keys=keys, target=target)
                tried = into_ball(x[left], tried, eps[left].double(), norm)
                inside = exact_distance(x[left], tried, norm) <= eps[left]
                with torch.no_grad():
                    reached = sure_of_target(outputs(tried), target, target)
                of_target = inside & (reached > 0)
                better = of_target & (reached > score[left])
                best[left] = torch.where(rows(better, x), tried, best[left])
                score[left] = torch.where(better, reached, score[left])
                forward += len(left) * (attack.queries + 1)
                backward += len(left) * attack.steps
    return Evasion(best, score, forward, backward)
