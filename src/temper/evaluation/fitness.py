"""What makes a model, or a finished search, unfit for evidence: errors where a number would be wrong, and warnings
where it is to be read with care. Each says what it means for the number."""

import logging
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from temper.attacks.attack import gradient_of, input_gradient
from temper.attacks.losses import RATIOS, cross_entropy
from temper.attacks.suites import Suite
from temper.errors import ArgumentError, ModelError, TemperWarning
from temper.evaluation.masking import SIGNS
from temper.evaluation.search import Findings
from temper.threat import NORMS, Norm, Threat

log = logging.getLogger(__name__)

TOLERATED = 0.005  # share of samples that a black-box attack may break alone before that is a sign

# Largest change of a logit, as a share of the largest, in batches of one size: rounding comes to 1e-7.
CONSTANT = 1e-4


def check_logits(logits: Tensor, y: Tensor, ids: Tensor) -> None:
    """Raise unless these are finite logits [N, K] with a class for every label.

    Raises:
        ModelError: no logits, or non-finite ones. ArgumentError: a label that the model has no class for.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the model returned {what} for {len(y)} images; it must return logits [N, K] with K >= 2")
    infinite = ~torch.isfinite(logits).all(1)
    if infinite.any():
        raise ModelError(
            f"the model's logits are not finite on samples {ids[infinite].tolist()[:5]}; no attack can be trusted there"
        )
    outside = (y < 0) | (y >= logits.shape[1])
    if outside.any():
        fix = f"of sample {ids[outside][0]}: the model has classes 0 to {logits.shape[1] - 1}"
        raise ArgumentError("label", int(y[outside][0]), fix)


def warn_if_unfit(model: nn.Module, x: Tensor, y: Tensor, logits: Tensor, suite: Suite) -> None:
    """Warn of what makes gradient attacks look weaker than they are; one batch shows it.

    Raises:
        ModelError: no gradient reaches the pixels, and every attack of the suite climbs one.
    """
    if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-4):
        _warn(
            "the model's outputs are probabilities: attacks lose their gradient there; return logits, without softmax"
        )
    warn_if_inconstant(model, x)
    if not reaches_pixels(model, x[:1]):
        cause = "no gradient reaches the pixels: detach(), no_grad, NumPy, JPEG or integers inside the model cut it off"
        if all(stage.attack.asks != "logits" for stage in suite.stages):
            raise ModelError(f"{cause}, and every attack of the suite {suite.name} climbs one; use suite standard")
        _warn(f"{cause}; only attacks that need none (Square) can break anything here")
        return
    gradient = input_gradient(model, x, lambda moved: cross_entropy(moved, y))[2]
    flat = (gradient == 0).flatten(1).all(1)
    if flat.any():
        _warn(
            f"the loss has no gradient on {int(flat.sum())} of the first {len(x)} samples: attacks that climb it find "
            "nothing there; look for rounding, detach, saturation or a softmax inside the model"
        )


def warn_if_lower(inside: Sequence[str]) -> None:
    """Warn of a model that computes in these low precisions of its own accord (:func:`precision.lower_inside`)."""
    if inside:
        _tell(
            f"the model computes in {' and '.join(inside)} inside (autocast, or casts of its own), so its flips are "
            "checked in that and not at full precision: every number is of the model rounded so; take that out of its "
            "forward pass for those of its float32 weights"
        )


def warn_if_not_finite(count: int) -> None:
    """Warn of samples with logits or gradients, near them, that are NaN or infinite."""
    if count:
        _warn(
            f"logits or gradients are not finite (NaN or infinite) near {count} samples: a root, a division or a "
            "logarithm at 0 inside the model; the search goes around such spots and may miss flips"
        )


@torch.no_grad()
def warn_if_inconstant(model: nn.Module, x: Tensor) -> None:
    """Warn where an image's logits change from pass to pass, or with the other images of its batch.

    Args:
        model: as it is measured or used, in eval mode.
        x: some images, float [N, C, H, W] in [0, 1]; the more of 16 there are, the more shows.
    """
    images, others = _in_company(x)
    logits = model(images)
    noise = float((model(images) - logits).abs().max() / logits.abs().max())
    if noise > CONSTANT:
        _tell(
            f"the model is random: its logits change by {100 * noise:.2g} % from pass to pass, so predictions do, too, "
            "and every number that follows from them; switch its randomness off, or measure it in expectation (temper "
            "evaluate --eot N)"
        )
        return
    same = len(images) - len(others)
    moved = model(torch.cat([images[:same], others]).contiguous(memory_format=_layout_of(images)))
    change = float((moved - logits)[:same].abs().max() / logits.abs().max())
    if change > CONSTANT:
        _tell(
            "the model's outputs depend on the other images of the batch: its logits change by "
            f"{100 * change:.2g} %, so every number changes with the batch size and with the images beside it; look "
            "for batch norms without running statistics, and for sums, attention or scaling over the batch"
        )


def _in_company(x: Tensor) -> tuple[Tensor, Tensor]:
    """Images beside others of their kind, and images of another kind to put into those others' place.

    The first half of the images stays; both batches have one size, in which kernels round alike. The images have less
    contrast than those of the other kind, noise and negatives, so that their batches differ in extremes, too.
    """
    same = min(8, len(x))
    paler = 0.25 + x / 2
    images = paler[torch.arange(2 * same, device=x.device) % len(x)].contiguous(memory_format=_layout_of(x))
    noise = torch.rand(images[:same].shape, generator=torch.Generator().manual_seed(0)).to(x)
    return images, torch.cat([noise[: (same + 1) // 2], 1 - images[(same + 1) // 2 : same]])


def _layout_of(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def reaches_pixels(model: nn.Module, x: Tensor) -> bool:
    """Whether autograd connects a model's logits with its images, float [N, C, H, W]."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        return gradient_of(logits.float().sum(), x) is not None


def note_few_classes(suite: Suite, classes: int) -> None:
    """Log what a suite does where a model has fewer classes than its attacks want."""
    ratios = [stage.name for stage in suite.stages if getattr(stage.attack, "climbs", None) in RATIOS]
    if ratios and classes < 4:
        instead = "the logit difference alone" if classes == 2 else "the third logit in place of third and fourth"
        log.info(
            f"{', '.join(dict.fromkeys(ratios))}: the model has {classes} classes, too few for DLR; it takes {instead}"
        )
    for stage in {stage.name: stage for stage in suite.stages}.values():
        if stage.attack.targeted and stage.attack.runs > classes - 1:
            log.info(f"{stage.name}: the model has {classes} classes; {classes - 1} targets, not {stage.attack.runs}")


def warn_if_masked(findings: Findings, norm: Norm) -> None:
    """Warn where an attack without gradients broke what the gradient attacks before it left standing."""
    blind = [stage.name for stage in findings.suite.first if stage.attack.asks == "logits"]
    if len(blind) == len(findings.suite.first):
        return
    for name in blind:
        alone, attacked = int((findings.attack == name).sum()), int((findings.failed[name] > -1).sum())
        if alone > TOLERATED * len(findings.ids):
            _warn(
                f"{name}, which sees no gradients, broke {alone} samples in {norm} that the gradient attacks had left "
                f"standing ({attacked} withstood it too): gradients are masked, by rounding, saturation or noise "
                "inside the model; a stronger search would break more"
            )


def warn_of_signs(findings: Findings, norm: Norm) -> None:
    """Name each sign of masked gradients, and on how many of the samples that withstood the first attacks it shows."""
    names = [stage.name for stage in findings.suite.stages if stage.on != "all"]
    withstood = np.logical_and.reduce([findings.failed[stage.name] >= 0 for stage in findings.suite.first])
    if not names or not (masked := findings.masked() & withstood).any():
        return
    counts = {SIGNS[sign]: int((shown & withstood).sum()) for sign, shown in findings.signs().items()}
    named = ", ".join(f"{sign} ({count})" for sign, count in counts.items() if count)
    broken = int(np.isin(findings.attack[masked], names).sum())
    _warn(
        f"signs of masked gradients in {norm} on {int(masked.sum())} of the {int(withstood.sum())} samples that "
        f"withstood the first attacks: {named}; {', '.join(names)} searched these too and broke {broken}"
    )


def warn_if_flat(curve: Sequence[float], threats: Sequence[Threat]) -> None:
    """Warn where accuracy does not fall from the smallest to a much larger radius.

    Args:
        curve: robust accuracy at each of ``threats``, all of one norm, radii rising.
        threats: as many.
    """
    if len(threats) < 2 or threats[-1].eps < max(2 * threats[0].eps, NORMS[threats[-1].norm].telling):
        return
    if curve[-1] > 0.05 and np.isclose(curve[0], curve[-1], atol=1e-9):
        _warn(
            f"accuracy does not fall from {threats[0]} to {threats[-1]}: attacks that work find more at larger radii, "
            "so either both are far below this model's margins or its gradients are masked; try a radius that must "
            "break everything"
        )


def _warn(problem: str) -> None:
    _tell(f"{problem}; robustness will look higher than it is")


def _tell(problem: str) -> None:
    warnings.warn(problem, TemperWarning, stacklevel=3)
