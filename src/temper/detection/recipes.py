"""How pseudo-margins are learned: what they see, and of what size."""

from dataclasses import asdict, dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Learning:
    """How networks learn.

    Attributes:
        epochs: passes over the samples.
        batch: samples in a step; 0 takes all.
        rate: of learning; on the scale ``log`` it falls to 0 along a cosine.
        decay: of weights (AdamW); 0 makes it Adam.
        dropout: share of hidden units left out in a step.
        best: keep each network's best epoch by Kendall's tau on its validation samples, instead of the last.
    """

    epochs: int
    batch: int
    rate: float
    decay: float
    dropout: float
    best: bool


@dataclass(frozen=True)
class Recipe:
    """What the networks look like and how they learn.

    Attributes:
        inputs: ``features``, ``logits`` or ``both``: features, the largest logits in order, and the logarithms of the
            differences between the first and the others.
        hidden: width of each hidden layer, and whether a ReLU follows it.
        members: networks, each validated on another fifth of the samples; their outputs are averaged.
        target: the margin on the scale on which it is learned: ``log``, the logarithm, beginning at its regression on
            the logarithm of the logit margin; ``share``, of the largest, behind a sigmoid; ``root``, the square root,
            behind a sigmoid.
        learning: how they learn.
    """

    inputs: Literal["features", "logits", "both"]
    hidden: tuple[tuple[int, bool], ...]
    members: int
    target: Literal["log", "share", "root"]
    learning: Learning

    def settings(self) -> dict[str, object]:
        """All of it as plain data without levels, as a file of a pseudo-margin holds it."""
        values = asdict(self)
        return values | values.pop("learning")


# The published text says "5 dense layers of 512" and leaves open whether the output is one of them: here it is not.
PAPER = Recipe(
    inputs="features",
    hidden=((512, True),) * 5,
    members=1,
    target="share",
    learning=Learning(epochs=500, batch=0, rate=1e-4, decay=0.0, dropout=0.0, best=False),
)

RECIPES = {
    "temper": Recipe(
        inputs="both",
        hidden=((128, True),) * 2,
        members=5,
        target="log",
        learning=Learning(epochs=60, batch=128, rate=1e-3, decay=0.01, dropout=0.2, best=True),
    ),
    "paper": PAPER,
    # The code that made the published numbers.
    "paper-code": replace(PAPER, inputs="logits", hidden=((512, False), (512, True), (512, True)), target="root"),
}
