"""What an attack is: a state per sample, and an update that reads the model's answer and poses the next question.

Attacks keep everything they know in tensors with one row per sample and never look across rows. So the same code
runs on a batch from start to end (:func:`perturb`), and in the engine, where a sample that is done leaves its row
to the next one (:mod:`temper.attacks.engine`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from temper.attacks.ball import rows
from temper.attacks.losses import Loss, flipped, is_targeted
from temper.core import randomness
from temper.errors import ArgumentError
from temper.threat import Norm, check_norm

Model = Callable[[Tensor], Tensor]
State = dict[str, Tensor]

NUDGE = 1e-3  # noise where a gradient is NaN, as a share of its largest finite entry
CERTAIN = 1000.0  # a logit, beside others of 0, that leaves no doubt, and that float16 holds


@dataclass(frozen=True)
class Problem:
    """What an attack is to do, a row per sample.

    Attributes:
        x: clean images, float [N, ...] in [0, 1].
        y: int64 [N], the classes to get away from.
        eps: float [N], radii of the balls in pixel units of [0, 1]; inf where the nearest flip is sought without limit.
        norm: Linf, L2 or L1.
        keys: int64 [N], the samples' random streams; None starts at ``x`` where an attack can.
        target: int64 [N], the classes to reach; only targeted attacks read it.
        rivals: int64 [N, R], classes for a run that goes for several, the first ones first.
    """

    x: Tensor
    y: Tensor
    eps: Tensor
    norm: Norm
    keys: Tensor | None = None
    target: Tensor | None = None
    rivals: Tensor | None = None


@dataclass(frozen=True)
class Answer:
    """What the model said about ``state["query"]``.

    Attributes:
        logits: [N, K].
        losses: [N], what the attack climbs; None where it asked for logits.
        gradient: of the losses [N, ...], or None.
    """

    logits: Tensor
    losses: Tensor | None = None
    gradient: Tensor | None = None


@dataclass(frozen=True)
class Attack(ABC):
    """One attack with its budget; plain data, printable, and part of the evidence's provenance.

    A state holds at least ``x``, ``y``, ``eps`` and ``step`` (how many questions were answered), ``query`` (the
    images [N, ...] to show the model next) and ``best`` (the images to return); attacks for the nearest flip also
    ``distance`` (of ``best``; inf while there is no flip). Images are in the box.

    Attributes:
        steps: length of a run.
        runs: how often a sample is attacked, from other starts or towards other classes.
    """

    asks: ClassVar[Literal["logits", "gradient"]] = "gradient"
    nearest: ClassVar[bool] = False  # whether it looks for the nearest flip rather than for any in the ball
    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2", "L1")  # whose geometry it knows; in others it does not run

    steps: int
    runs: int = 1

    @property
    def queries(self) -> int:
        """Questions asked in a run; those after the first ``steps`` need no gradient."""
        return self.steps

    @property
    def targeted(self) -> bool:
        """Whether a run goes for one class, ``Problem.target``, as it does where the loss that it climbs does."""
        loss: Loss | None = getattr(self, "climbs", None)
        return loss is not None and is_targeted(loss)

    def among(self, classes: int) -> "Attack":
        """The attack where there are only so many other classes."""
        return replace(self, runs=min(self.runs, classes)) if self.targeted else self

    def passes(self) -> tuple[int, int]:
        """Forward and backward passes of a whole run."""
        return self.queries, self.steps if self.asks == "gradient" else 0

    @abstractmethod
    def begin(self, problem: Problem) -> State:
        """The state before the first question."""

    @abstractmethod
    def update(self, state: State, answer: Answer, norm: Norm, judge: Model) -> None:
        """Read the answer to ``state["query"]``, improve ``best``, pose the next question; in place.

        Args:
            state: of all rows; new tensors are put under the old names.
            answer: to the present question.
            norm: that of the problem.
            judge: gives logits [N, K] of images without gradients, for attacks that look twice in a step.
        """

    def loss(self, logits: Tensor, state: State) -> Tensor:
        """What is climbed, [N]."""
        raise NotImplementedError(f"{type(self).__name__} climbs no loss")

    def describe(self) -> dict[str, object]:
        """The attack as plain data, such as JSON can hold."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: getattr(value, "__name__", value) for name, value in values.items()}
        return {"attack": type(self).__name__, **plain}


def ask(attack: Attack, model: Model, state: State, *, gradient: bool = True) -> Answer:
    """Show the model ``state["query"]`` and take what the attack asks for; one forward pass, and one backward pass
    for a gradient."""
    query = state["query"]
    if attack.asks == "logits" or not gradient:
        with torch.no_grad():
            logits = model(query)
            return Answer(logits, attack.loss(logits, state) if attack.asks == "gradient" else None)
    logits, losses, slope = input_gradient(model, query, lambda logits: attack.loss(logits, state))
    return Answer(logits, losses, slope)


def usable(attack: Attack, answer: Answer, state: State) -> Answer:
    """The answer with a number for everything in it that is not finite, so that an attack can go on.

    An image whose logits are not finite counts as of the label's class without doubt, where every loss is at its
    lowest. Of a gradient, infinity keeps its direction, at the size of the sample's largest finite entry. NaN, as of a
    square root at 0, says nothing; a little noise there, named by the step, takes the next question off such a spot.
    """
    lost = _lost(answer)
    if lost.any():
        sure = functional.one_hot(state["y"], answer.logits.shape[1]).to(answer.logits.dtype) * CERTAIN
        logits = torch.where(lost[:, None], sure, answer.logits)
        losses = None if answer.losses is None else torch.where(lost, attack.loss(logits, state), answer.losses)
        answer = replace(answer, logits=logits, losses=losses)
    gradient = answer.gradient
    if gradient is None or torch.isfinite(gradient).all():
        return answer
    known = torch.where(torch.isfinite(gradient), gradient, 0)
    largest = known.flatten(1).abs().amax(1)
    some = largest > 0
    noise = 2 * randomness.uniform(state["step"], tuple(gradient.shape[1:])).to(gradient.dtype) - 1
    noise = noise * rows(torch.where(some, NUDGE * largest, 1), gradient)
    infinite = gradient.sign() * rows(torch.where(some, largest, 1), gradient)
    known = torch.where(torch.isinf(gradient), infinite, torch.where(torch.isnan(gradient), noise, known))
    return replace(answer, gradient=known)


def learn(attack: Attack, state: State, answer: Answer, norm: Norm, judge: Model) -> None:
    """Let an attack read the answer to its question, in place; where there were no finite logits, the next question is
    half way back to the clean image, which has some."""
    asked, lost = state["query"], _lost(answer)
    attack.update(state, usable(attack, answer, state), norm, judge)
    if lost.any():
        state["query"] = torch.where(rows(lost, asked), torch.lerp(asked, state["x"], 0.5), state["query"])


def _lost(answer: Answer) -> Tensor:
    """Rows in which a logit is not finite."""
    return ~torch.isfinite(answer.logits).all(1)


def input_gradient(model: Model, x: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """One forward and one backward pass: (logits [N, K], loss [N], gradient [N, ...] of the summed loss).

    The gradient is 0 where the model lets none through.

    Each sample's gradient goes through the model scaled by a power of two, so that the largest slope of its loss over
    the logits is about 1: the slopes of a confident model's loss would vanish in float16.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        given = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).requires_grad_()
        losses = loss(given)
        (slope,) = torch.autograd.grad(losses.sum(), given)
        size = torch.exp2(torch.frexp(slope.abs().amax(1)).exponent.clamp(-100, 100).to(slope.dtype))
        gradient = gradient_of(logits, x, (slope / size[:, None]).to(logits.dtype))
    gradient = torch.zeros_like(x) if gradient is None else gradient
    return logits.detach(), losses.detach(), gradient * rows(size, gradient)


def gradient_of(output: Tensor, x: Tensor, weights: Tensor | None = None, *, keep: bool = False) -> Tensor | None:
    """The gradient of an output, weighted, with respect to ``x``; None where the model cut the two apart.

    ``keep`` keeps the graph for another call.
    """
    if not output.requires_grad:
        return None
    return torch.autograd.grad(output, x, weights, retain_graph=keep, allow_unused=True)[0]


def perturb(
    attack: Attack,
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Tensor | float,
    norm: Norm,
    *,
    keys: Tensor | None = None,
    target: Tensor | None = None,
    keep_flips: bool = False,
) -> Tensor:
    """Run an attack once on a batch.

    Args:
        attack: what to run, with its budget.
        model: maps images float [N, ...] in [0, 1] to logits [N, K]; see :func:`temper.attacks.crafting.crafting`.
        x: clean images; y: labels int64 [N] to get away from.
        eps: radius of the ball, one for all or a tensor [N].
        norm: Linf, L2 or L1.
        keys: the samples' random streams, int64 [N], for a random start; None starts at ``x`` where the attack can.
        target: classes to reach, int64 [N], for targeted attacks.
        keep_flips: return the first image that was seen to flip the prediction, where one was, and stop when all are
            flipped; for attacks on a ball.

    Returns:
        Images of the shape of ``x``, inside the box; attacks for the nearest flip return ``x`` where they found none.

    Raises:
        ArgumentError: an unknown norm, or one that the attack does not know.
    """
    norm = check_norm(norm)
    if norm not in attack.norms:
        raise ArgumentError("norm", norm, f"{type(attack).__name__} runs in {', '.join(attack.norms)} alone")
    attack = attack.among(1)
    radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(len(x)).contiguous()
    state = attack.begin(Problem(x, y, radius, norm, keys, target))
    kept, flips = x, torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def judge(images: Tensor) -> Tensor:
        with torch.no_grad():
            return model(images)

    for step in range(attack.queries):
        answer = ask(attack, model, state, gradient=step < attack.steps)
        if keep_flips:
            new = flipped(answer.logits, y) & ~flips
            kept, flips = torch.where(rows(new, x), state["query"], kept), flips | new
            if flips.all():
                return kept
        learn(attack, state, answer, norm, judge)
    return torch.where(rows(flips, x), kept, state["best"])


def climb(loss: Loss, logits: Tensor, state: State) -> Tensor:
    """The loss [N] of a state's samples: losses that are towards a class also take ``state["target"]``."""
    return loss(logits, state["y"], state["target"]) if "target" in state else loss(logits, state["y"])
