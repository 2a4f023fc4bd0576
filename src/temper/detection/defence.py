"""A detector on each score, and what attackers who know it achieve."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from temper.attacks.apgd import APGD
from temper.attacks.attack import perturb
from temper.attacks.crafting import crafting
from temper.attacks.losses import flipped
from temper.core import randomness
from temper.core.precision import full_precision
from temper.core.progress import progress_bar
from temper.detection.evasion import Scored, raise_score
from temper.errors import EvidenceError
from temper.evaluation.samples import Samples, on_device
from temper.margins import intervals
from temper.margins.decisions import Brittleness
from temper.margins.detector import conformal_threshold
from temper.margins.intervals import Estimate
from temper.models import Classifier
from temper.threat import Norm

CHUNK = 64  # samples attacked at once
# Of each attack on a detector: classes tried, runs per class, steps per run.
TARGETS, RESTARTS, STEPS = 5, 2, 50


def calibration_half(ids: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Which samples a threshold is chosen on, about half of them, by id and seed; it is judged on the others."""
    keys = randomness.sample_keys(seed, torch.tensor(ids), "calibration")
    return (randomness.uniform(keys, (1,)).flatten() < 0.5).numpy()


@dataclass(frozen=True)
class Defence:
    """A detector on one score, and what attackers who know it achieve on samples that it was not fitted on.

    Shares of nothing are None.

    Attributes:
        score: its name.
        threshold: decisions that score at most this are flagged.
        missed: share of the brittle decisions on clean images that pass unflagged.
        flagged: share of all decisions on clean images that are flagged: what the detector costs.
        plain_missed: of adversarial images by an attacker who does not know the detector, the share unflagged.
        evaded: share of the samples for which an image within eps is classified otherwise *and* passes unflagged.
        raised: of brittle decisions that are flagged, the share whose score can be pushed above the threshold by an
            image of the same class that is itself still brittle at eps.
    """

    score: str
    threshold: float
    missed: Estimate | None
    flagged: Estimate
    plain_missed: Estimate | None
    evaded: Estimate
    raised: Estimate | None

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


def attack_detectors(
    model: Classifier,
    samples: Samples,
    decisions: Brittleness,
    scores: pd.DataFrame,
    scored: Mapping[str, Scored],
    norm: Norm,
    eps: float,
    *,
    alpha: float,
    seed: int,
) -> Iterator[Defence]:
    """Fit a detector on each score with half of the samples, and attack it on the other half; one after the other.

    Args:
        model: on its device.
        samples: those of ``decisions``.
        decisions: which decisions are brittle at ``eps``.
        scores: from :func:`score`, of the same samples.
        scored: from :func:`scorers`.
        norm: Linf, L2 or L1.
        eps: in pixel units of [0, 1].
        alpha: largest share of brittle decisions that may pass.
        seed: of the split and of the random starts.

    Raises:
        EvidenceError: too few brittle decisions to fit a detector on.
    """
    calibration = calibration_half(decisions.sample, seed)
    rest = np.flatnonzero(~calibration)
    if not len(rest):
        raise EvidenceError(
            f"{len(decisions.sample)} samples are too few to fit a detector on some and attack it on others"
        )
    with progress_bar("attacking the detectors", len(scored) * len(rest)) as bar:
        for name, each in scored.items():
            values = scores[name].to_numpy(np.float64)
            threshold = conformal_threshold(values[calibration & decisions.brittle], alpha)
            flagged = values <= threshold
            plain, plain_missed, evaded, raised = (np.zeros(len(values), dtype=np.bool_) for _ in range(4))
            for x, ids, places in _chunks(model, samples, decisions.sample, rest):
                y = torch.as_tensor(decisions.prediction[places], device=x.device)
                radius = torch.full((len(x),), eps, dtype=torch.float64, device=x.device)
                plain[places], plain_missed[places] = _plain(model, each, x, y, radius, norm, threshold)
                others = _rivals(model, x, y)
                away = raise_score(
                    model, each, x, others, radius, norm,
                    ids=ids, steps=STEPS, restarts=RESTARTS, seed=seed, enough=threshold,
                )  # fmt: skip
                evaded[places] = (away.score > threshold).cpu().numpy()
                # Whatever is within eps - d of an image with a flip at distance d has that flip within eps.
                left = torch.as_tensor(np.where(decisions.brittle, eps - decisions.margin, 0)[places] * (1 - 1e-6))
                room = left.to(x.device) * torch.as_tensor(flagged[places], device=x.device)
                up = raise_score(
                    model, each, x, y[:, None], room, norm,
                    ids=ids, steps=STEPS, restarts=RESTARTS, seed=seed, enough=threshold,
                )  # fmt: skip
                raised[places] = (up.score > threshold).cpu().numpy()
                bar.advance(name, by=len(x))
            test = ~calibration
            yield Defence(
                score=name,
                threshold=threshold,
                missed=intervals.share_among(~flagged, decisions.brittle & test),
                flagged=intervals.share(flagged[test]),
                plain_missed=intervals.share_among(plain_missed, plain & test),
                evaded=intervals.share(evaded[test]),
                raised=intervals.share_among(raised, decisions.brittle & flagged & test),
            )


def _chunks(
    model: nn.Module, samples: Samples, ids: NDArray[np.int64], chosen: NDArray[np.int64]
) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
    """Images of the chosen samples, their ids, and their places among all ids."""
    for x, _, some in on_device(model, samples.take(ids[chosen].tolist()).batches(CHUNK)):
        yield x, some, np.searchsorted(ids, some.cpu().numpy())


@torch.no_grad()
def _rivals(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The likeliest classes other than the predicted one, int64 [N, T]."""
    with crafting(model):
        logits = model(x)
    count = min(TARGETS, logits.shape[1] - 1)
    return logits.scatter(1, y[:, None], -torch.inf).topk(count, 1).indices


def _plain(
    model: nn.Module, scored: Scored, x: Tensor, y: Tensor, eps: Tensor, norm: Norm, threshold: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which samples APGD on the cross-entropy flips, and which of those images pass unflagged."""
    with crafting(model), full_precision(x.device):
        moved = perturb(APGD(STEPS), model, x, y, eps, norm)
        with torch.no_grad():
            logits, values = scored(moved)
    flips = flipped(logits, y)
    return flips.cpu().numpy(), (flips & (values > threshold)).cpu().numpy()
