"""The pseudo-margin: a small network that tells the input margin from a model's features and logits.

It is for models whose logit margin does not rank decisions as the input margin does (arXiv:2406.18451, section 3.3).
It learns from the input margins of training images, which a search has to find once; after that it costs little more
than the forward pass. Like the logit margin it is a stand-in and no certificate, and for images from elsewhere it is
only as good as those are like the ones it was fitted on.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from scipy.stats import kendalltau
from torch import Tensor

from temper.core.files import written
from temper.core.progress import progress_bar
from temper.detection.recipes import RECIPES, Recipe
from temper.errors import ArgumentError, EvidenceError

FORMAT = 1
METADATA_KEY = "temper_pseudo_margin"
FEWEST = 100  # known margins; fewer do not even show whether anything was learned
FOLDS = 5  # a network learns from four fifths and is validated on the fifth, as in the paper
RANKED = 10  # of the largest logits, those that are looked at
SMALLEST_GAP = 1e-6  # of two logits, and of a margin, for their logarithms

Layer = tuple[Tensor, Tensor]  # weight [E, in, out] and bias [E, 1, out] of a layer of E networks side by side


@dataclass(frozen=True)
class Validation:
    """What networks were fitted on, and how they do on the rest.

    Attributes:
        seed: of the networks and of the split.
        known: samples that they were fitted on.
        unknown: samples left out because no flip of them was found.
        tau: Kendall's tau-b of the pseudo-margin and the input margin on samples that the networks did not learn from,
            averaged over the networks. It is a little high where the best epoch was chosen by it.
    """

    seed: int
    known: int
    unknown: int
    tau: float


@dataclass(frozen=True)
class Scaling:
    """What stands before and behind the networks.

    Attributes:
        base: what an estimate on the scale of the target begins with: offset, and slope by the log of the logit margin.
        scale: largest margin it was fitted on, for the target ``share``; else 1.
        mean, std: float32 [D], which inputs are standardised by.
    """

    base: tuple[float, float]
    scale: float
    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class PseudoMargin:
    """An estimate of the input margin from features and logits: the lower, the more brittle.

    It is called with what :func:`temper.models.features.features_and_logits` returns, and can be differentiated.

    Attributes:
        recipe: a name in :data:`RECIPES`.
        validation: what the networks were fitted on, and how they do on the rest.
        widths: numbers of features and of logits that it takes.
        scaling: of inputs and outputs.
        layers: weights and biases of the networks, side by side.
    """

    recipe: str
    validation: Validation
    widths: tuple[int, int]
    scaling: Scaling
    layers: tuple[Layer, ...]

    @classmethod
    def fit(
        cls, features: Tensor, logits: Tensor, margins: Tensor, recipe: str = "temper", seed: int = 0
    ) -> "PseudoMargin":
        """Learn from samples whose input margins are known, best training images and the suite ``margin``.

        The recipe ``temper`` takes seconds, ``paper`` minutes. The same seed gives the same networks on the same
        machine; torch's own random stream is left alone.

        Args:
            features: float [N, M]; logits: float [N, K], of the same samples.
            margins: float [N], distances of the nearest flips, in pixel units of [0, 1]; inf: unknown.
            recipe: a name in :data:`RECIPES`.
            seed: of the networks and of the split.

        Raises:
            ArgumentError: shapes that do not fit, values that are no numbers, negative margins, no such recipe.
            EvidenceError: fewer than 100 known margins, or all of them equal.
        """
        if recipe not in RECIPES:
            raise ArgumentError("recipe", recipe, f"choose one of {', '.join(RECIPES)}")
        features, logits = _checked(features.detach(), logits.detach())
        margins = _known(margins, len(features))
        known = torch.isfinite(margins)
        features, logits, margins = features[known], logits[known], margins[known]
        with torch.enable_grad():
            return _fit(cls, features, logits, margins, recipe, seed, unknown=int((~known).sum()))

    def __call__(self, features: Tensor, logits: Tensor) -> Tensor:
        """Pseudo-margins, in the unit of the margins it was fitted on: [N, M], [N, K] -> float32 [N], above 0.

        Raises:
            ArgumentError: shapes that do not fit, or values that are no numbers.
        """
        place = features.device
        features, logits = _checked(features, logits)
        if (features.shape[1], logits.shape[1]) != self.widths:
            given = (features.shape[1], logits.shape[1])
            raise ArgumentError("features and logits", given, f"the pseudo-margin was fitted on widths {self.widths}")
        recipe = RECIPES[self.recipe]
        inputs = (_inputs(recipe, features, logits) - self.scaling.mean) / self.scaling.std
        outputs = _outputs(recipe, self.layers, inputs[None], _base(self.scaling.base, logits)).mean(0)
        if recipe.target == "log":
            return outputs.exp().to(place)
        return (outputs * self.scaling.scale if recipe.target == "share" else outputs**2).to(place)

    def save(self, path: Path) -> None:
        """Write the networks as safetensors, everything else as JSON in its metadata."""
        tensors = {"mean": self.scaling.mean, "std": self.scaling.std}
        for place, (weight, bias) in enumerate(self.layers):
            tensors |= {f"{place}.weight": weight, f"{place}.bias": bias}
        plain = {"widths": self.widths, "base": self.scaling.base, "scale": self.scaling.scale}
        settings = RECIPES[self.recipe].settings()
        notes = {"format": FORMAT, "settings": settings, "recipe": self.recipe, **asdict(self.validation), **plain}
        with written(path) as unfinished:
            safetensors.torch.save_file(tensors, unfinished, {METADATA_KEY: json.dumps(notes)})

    @classmethod
    def load(cls, path: Path) -> "PseudoMargin":
        """Read what :meth:`save` wrote.

        Raises:
            EvidenceError: the file cannot be read, or is no pseudo-margin of this version of Temper.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                notes = json.loads((file.metadata() or {})[METADATA_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            written_by, settings = notes.pop("format"), notes.pop("settings")
            known = notes["recipe"] in RECIPES
            current = json.loads(json.dumps(RECIPES[notes["recipe"]].settings())) if known else None
        except OSError as error:
            raise EvidenceError(f"{path}: cannot be read ({error.strerror or error})") from None
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
            raise EvidenceError(f"{path}: is not a pseudo-margin's file; fit it again") from None
        if (written_by, settings) != (FORMAT, current):
            raise EvidenceError(f"{path}: was written by another version of temper; fit the pseudo-margin again")
        layers = tuple((tensors[f"{k}.weight"], tensors[f"{k}.bias"]) for k in range((len(tensors) - 2) // 2))
        scaling = Scaling(tuple(notes.pop("base")), notes.pop("scale"), tensors["mean"], tensors["std"])
        recipe, widths = notes.pop("recipe"), tuple(notes.pop("widths"))
        return cls(recipe, Validation(**notes), widths, scaling, layers)


# --- what goes in ---------------------------------------------------------------------------------


def _checked(features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32 on the CPU, where small networks are at home."""
    for name, values in (("features", features), ("logits", logits)):
        if values.dim() != 2:
            raise ArgumentError(name, tuple(values.shape), "must be [N, features] and [N, classes]")
        if not torch.isfinite(values).all():
            row = int((~torch.isfinite(values)).any(1).nonzero()[0])
            raise ArgumentError(name, f"row {row}", "holds NaN or infinity; a pseudo-margin needs finite numbers")
    if len(features) != len(logits):
        raise ArgumentError("logits", tuple(logits.shape), f"must be of the {len(features)} samples of the features")
    if logits.shape[1] < 2:
        raise ArgumentError("logits", tuple(logits.shape), "must be of at least 2 classes")
    return features.float().cpu(), logits.float().cpu()


def _known(margins: Tensor, count: int) -> Tensor:
    """Margins as float32 [N] on the CPU, enough of them known to learn from."""
    if margins.shape != (count,):
        raise ArgumentError("margins", tuple(margins.shape), f"must be one for each of {count} samples")
    if not (margins >= 0).all():  # NaN neither
        row = int((~(margins >= 0)).nonzero()[0])
        raise ArgumentError("margins", float(margins[row]), f"sample {row}: must be at least 0, or inf where unknown")
    finite = margins[torch.isfinite(margins)]
    if len(finite) < FEWEST:
        raise EvidenceError(
            f"{len(finite)} known margins of {count} are too few to learn from; find those of {FEWEST} samples at least"
            " (some thousands are better) with suite margin"
        )
    if finite.min() == finite.max():
        raise EvidenceError(f"all {len(finite)} known margins are {float(finite[0]):.4g}: there is nothing to learn")
    return margins.detach().float().cpu()


def _inputs(recipe: Recipe, features: Tensor, logits: Tensor) -> Tensor:
    """What the networks see, float [N, D]."""
    if recipe.inputs != "both":
        return features if recipe.inputs == "features" else logits
    ranked = logits.topk(min(RANKED, logits.shape[1]), 1).values
    return torch.cat([features, ranked, _log(ranked[:, :1] - ranked[:, 1:])], 1)


def _log(values: Tensor) -> Tensor:
    return values.clamp_min(SMALLEST_GAP).log()


def _base(base: tuple[float, float], logits: Tensor) -> Tensor:
    """What the networks' outputs are added to, float [N]."""
    first, second = logits.topk(2, 1).values.T
    return base[0] + base[1] * _log(first - second)


# --- learning -------------------------------------------------------------------------------------


def _fit(
    kind: type[PseudoMargin], features: Tensor, logits: Tensor, margins: Tensor, name: str, seed: int, unknown: int
) -> PseudoMargin:
    recipe = RECIPES[name]
    generator = torch.Generator().manual_seed(seed)
    inputs, (mean, std) = _inputs(recipe, features, logits), (torch.zeros(1), torch.ones(1))
    base, scale = (0.0, 0.0), 1.0
    if recipe.target == "log":
        std, mean = torch.std_mean(inputs, 0)
        std = std.clamp_min(1e-6)
        targets, gaps = _log(margins), _base((0.0, 1.0), logits)
        slope = max(0.0, float(((gaps - gaps.mean()) * (targets - targets.mean())).mean() / gaps.var()))
        base = (float(targets.mean()) - slope * float(gaps.mean()), slope)
    elif recipe.target == "share":
        scale = float(margins.max())
        targets = margins / scale
    else:
        targets = margins.sqrt()
    layers, tau = _learn(recipe, (inputs - mean) / std, targets, _base(base, logits), generator)
    widths = (features.shape[1], logits.shape[1])
    validation = Validation(seed, len(margins), unknown, tau)
    return kind(name, validation, widths, Scaling(base, scale, mean, std), layers)


def _learn(
    recipe: Recipe, inputs: Tensor, targets: Tensor, base: Tensor, generator: torch.Generator
) -> tuple[tuple[Layer, ...], float]:
    """Networks, and their tau on the samples that they were not shown, averaged.

    Args:
        recipe: of the networks.
        inputs: float [N, D], as the networks see them.
        targets, base: float [N].
        generator: of everything random.
    """
    split = torch.randperm(len(inputs), generator=generator)
    held_out = [split[member::FOLDS] for member in range(recipe.members)]
    shown = [split[torch.arange(len(split)) % FOLDS != member] for member in range(recipe.members)]
    layers = _fresh(recipe, inputs.shape[1], generator)
    parameters = [tensor.requires_grad_() for layer in layers for tensor in layer]
    optimiser = torch.optim.AdamW(parameters, recipe.learning.rate, weight_decay=recipe.learning.decay)
    best = [(tau, _member(layers, k)) for k, tau in enumerate(_taus(recipe, layers, inputs, targets, base, held_out))]
    with progress_bar("fitting the pseudo-margin", recipe.learning.epochs) as bar:
        for epoch in range(recipe.learning.epochs):
            steps = list(_batches(shown, recipe.learning.batch, generator))
            for step, places in enumerate(steps):
                if recipe.target == "log":
                    done = (epoch + step / len(steps)) / recipe.learning.epochs
                    optimiser.param_groups[0]["lr"] = recipe.learning.rate * (1 + np.cos(np.pi * done)) / 2
                outputs = _outputs(recipe, layers, inputs[places], base[places], generator)
                optimiser.zero_grad()
                _loss(outputs, targets[places]).backward()
                optimiser.step()
            bar.advance()
            if recipe.learning.best or epoch == recipe.learning.epochs - 1:
                for k, tau in enumerate(_taus(recipe, layers, inputs, targets, base, held_out)):
                    if tau > best[k][0] or not recipe.learning.best:
                        best[k] = (tau, _member(layers, k))
    members = [member for _, member in best]
    joined = tuple(
        (torch.cat([m[k][0] for m in members]), torch.cat([m[k][1] for m in members])) for k in range(len(layers))
    )
    return joined, float(np.mean([tau for tau, _ in best]))


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error per network, summed over the networks, so that none slows another down."""
    return (outputs - targets).square().mean(1).sum()


def _fresh(recipe: Recipe, width: int, generator: torch.Generator) -> tuple[Layer, ...]:
    """Layers with the distribution that torch gives a new nn.Linear: uniform, within 1 / sqrt(inputs)."""
    widths = [width, *(hidden for hidden, _ in recipe.hidden), 1]
    layers = []
    for before, after in pairwise(widths):
        weight, bias = torch.empty(recipe.members, before, after), torch.empty(recipe.members, 1, after)
        for tensor in (weight, bias):
            tensor.uniform_(-(before**-0.5), before**-0.5, generator=generator)
        layers.append((weight, bias))
    if recipe.target == "log":  # begin at the base itself
        for tensor in layers[-1]:
            tensor.zero_()
    return tuple(layers)


def _outputs(
    recipe: Recipe, layers: Sequence[Layer], inputs: Tensor, base: Tensor, dropping: torch.Generator | None = None
) -> Tensor:
    """Outputs of the networks, float [E, N], on the scale of the target.

    Args:
        recipe: of the networks.
        layers: of E networks.
        inputs: float [E, N, D], or [1, N, D] where all see the same.
        base: float [E, N] or [N].
        dropping: random stream of dropout; None: no dropout.
    """
    x = inputs.expand(len(layers[0][0]), -1, -1)
    for (weight, bias), (_, rectified) in zip(layers[:-1], recipe.hidden, strict=True):
        x = torch.baddbmm(bias, x, weight)
        x = x.relu() if rectified else x
        if dropping is not None and recipe.learning.dropout:
            keep = torch.rand(x.shape, generator=dropping) >= recipe.learning.dropout
            x = x * keep / (1 - recipe.learning.dropout)
    x = torch.baddbmm(layers[-1][1], x, layers[-1][0]).squeeze(2)
    return x + base if recipe.target == "log" else x.sigmoid()


def _batches(shown: Sequence[Tensor], size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Places of samples, int64 [E, B], each network's own; a last, smaller batch is left out."""
    fewest = min(map(len, shown))
    size = min(size, fewest) or fewest
    order = torch.stack([each[torch.randperm(len(each), generator=generator)[:fewest]] for each in shown])
    yield from (order[:, start : start + size] for start in range(0, fewest - size + 1, size))


@torch.no_grad()
def _taus(
    recipe: Recipe, layers: Sequence[Layer], inputs: Tensor, targets: Tensor, base: Tensor, held_out: Sequence[Tensor]
) -> list[float]:
    """Kendall's tau-b of each network on its own validation samples."""
    taus = []
    for k, places in enumerate(held_out):
        outputs = _outputs(recipe, _member(layers, k), inputs[places][None], base[places])[0]
        # Outputs that are all alike rank nothing, and have no tau.
        ranks = bool(outputs.min() < outputs.max())
        taus.append(float(kendalltau(outputs.numpy(), targets[places].numpy()).statistic) if ranks else 0.0)
    return taus


def _member(layers: Sequence[Layer], k: int) -> tuple[Layer, ...]:
    """A copy of one of the networks side by side."""
    return tuple((weight.detach()[k : k + 1].clone(), bias.detach()[k : k + 1].clone()) for weight, bias in layers)
