"""Robustness in several norms at once: which of them a batch is attacked in."""

from collections.abc import Mapping, Sequence

from temper.core import randomness
from temper.threat import Norm, Threat, format_eps
from temper.training.checkpoints import Progress
from temper.training.config import FinetuneConfig


def drawn_from(config: FinetuneConfig, threats: Sequence[Threat], progress: Progress) -> list[Threat]:
    """The threats that the next batch is attacked in: all that are in force, or E-AT's one of them."""
    if config.attack.union != "e-at" or not threats:
        return [*threats]
    return [drawn(threats, progress.attacked, config.seed, progress.step)]


def note_errors(progress: Progress, norm: Norm, samples: float, correct: float) -> None:
    """Count a batch that was attacked in a norm towards its running robust error."""
    before = progress.attacked.get(norm, [0, 0])
    progress.attacked[norm] = [before[0] + round(samples), before[1] + round(samples - correct)]


def beside(threats: Sequence[Threat], eps: float) -> list[Threat]:
    """The threats as they are when the first of them has this epsilon."""
    first = threats[0].eps or 1.0
    return [Threat(each.norm, each.eps * eps / first) for each in threats]


def in_words(threats: Sequence[Threat]) -> str:
    """As people write them: ``Linf 4/255 and L1 12``."""
    return " and ".join(f"{each.norm} {format_eps(each.norm, each.eps)}" for each in threats)


def scaled(threats: Sequence[Threat], share: float) -> list[Threat]:
    """The threats in force while the schedule asks for a share of epsilon; none at 0, where nothing is searched."""
    return [Threat(each.norm, share * each.eps) for each in threats] if share > 0 else []


def drawn(threats: Sequence[Threat], attacked: Mapping[str, Sequence[int]], seed: int, step: int) -> Threat:
    """The one threat that a batch is attacked in: each is drawn in proportion to its running robust error.

    So E-AT has it (Croce and Hein 2021, arXiv:2105.12508): until every norm has been drawn once, and where nothing is
    wrong in any, all are as likely.

    Args:
        threats: to draw from.
        attacked: of each norm, samples attacked so far and how many of them were wrong.
        seed: of the run. step: finished updates.
    """
    counts = [attacked.get(each.norm, (0, 0)) for each in threats]
    errors = [wrong / samples for samples, wrong in counts if samples]
    if len(errors) < len(threats) or sum(errors) == 0:
        errors = [1.0] * len(threats)
    left = randomness.number(seed, "norm", step) / 2**63 * sum(errors)
    for threat, error in zip(threats, errors, strict=True):
        left -= error
        if left < 0:
            return threat
    return threats[-1]  # rounding
