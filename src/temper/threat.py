"""Threats: a norm and a radius ``eps`` in pixel units of [0, 1], as people write them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from temper.errors import ArgumentError

Norm = Literal["Linf", "L2", "L1"]


@dataclass(frozen=True)
class NormFacts:
    """What is known of a norm.

    Attributes:
        order: p of the p-norm.
        dual: the norm that gradients are measured in, where perturbations are measured in this one.
        unit: how many of the units that people write a radius in make up 1: 255ths for Linf.
        telling: a radius at which accuracy that has not fallen yet is a sign of masked gradients.
    """

    order: float
    dual: Norm
    unit: int
    telling: float


NORMS: dict[Norm, NormFacts] = {
    "Linf": NormFacts(order=float("inf"), dual="L1", unit=255, telling=16 / 255),
    "L2": NormFacts(order=2.0, dual="L2", unit=1, telling=2.0),
    "L1": NormFacts(order=1.0, dual="Linf", unit=1, telling=40.0),
}

# 3 * 0.1 is not the float 0.3: radii that differ by no more than this share are one radius, reckoned in two ways.
ROUNDING = 1e-12

# Below, no pixel of float32 changes; far above, where every ball holds the whole box, squares of radii overflow.
LEAST, MOST = 1e-9, 1e9


@dataclass(frozen=True, order=True)
class Threat:
    """All images within distance ``eps`` of a sample, measured in ``norm``, inside the pixel box."""

    norm: Norm
    eps: float

    def __str__(self) -> str:
        return f"{self.norm}:{format_eps(self.norm, self.eps)}"


def format_eps(norm: str, eps: float) -> str:
    """How people write a radius: in 255ths for Linf, as a plain number otherwise."""
    unit = NORMS[check_norm(norm)].unit
    return f"{eps * unit:.4g}" + (f"/{unit}" if unit != 1 else "")


def parse_eps(value: str | float, argument: str = "eps") -> float:
    """Read a radius: a number, or a fraction as in ``8/255``.

    Raises:
        ArgumentError: it is neither 0 nor a number from :data:`LEAST` to :data:`MOST`.
    """
    fix = "write a number of at least 0 in pixel units of [0, 1], for example 0.03 or 8/255"
    try:
        numerator, slash, denominator = str(value).partition("/")
        eps = float(numerator) / (float(denominator) if slash else 1)
    except (ValueError, ZeroDivisionError):
        raise ArgumentError(argument, value, fix) from None
    if not 0 <= eps < float("inf"):
        raise ArgumentError(argument, value, fix)
    if eps and not LEAST <= eps <= MOST:
        raise ArgumentError(
            argument, value, f"is in pixel units of [0, 1], from {LEAST:g} to {MOST:g} where it is not 0"
        )
    return eps


def parse_radii(value: str | float | Sequence[str | float]) -> float | tuple[float, ...]:
    """Read one radius, or several for as many norms, as in ``4/255,12``; see :func:`parse_eps`."""
    words = value.split(",") if isinstance(value, str) else value
    radii = tuple(map(parse_eps, words if isinstance(words, list | tuple) else [words]))
    return radii[0] if len(radii) == 1 else radii


def parse_norms(value: object) -> str:
    """Read one norm, or several as in ``Linf,L1``; returns their names joined by commas.

    Raises:
        ArgumentError: an unknown norm, or one that is named twice.
    """
    words = value if isinstance(value, list | tuple) else str(value).split(",")
    norms = [check_norm(str(word).strip()) for word in words]
    if len(set(norms)) < len(norms) or not norms:
        raise ArgumentError("norm", value, "names a norm twice, or none; name each once, for example Linf,L1")
    return ",".join(norms)


def check_norm(norm: str, argument: str = "norm") -> Norm:
    """Return ``norm`` if it is one of Linf, L2, L1; raise ArgumentError otherwise."""
    for known in NORMS:
        if norm.lower() == known.lower():
            return known
    raise ArgumentError(argument, norm, f"choose one of {', '.join(NORMS)}")


def parse_threats(texts: str | Sequence[str]) -> list[Threat]:
    """Read threats such as ``"Linf:2/255,4/255 L2:0.5"`` (or a list of such texts), without repeats, in order.

    Raises:
        ArgumentError: no threat, an unknown norm, or a radius that is not above 0.
    """
    words = " ".join([texts] if isinstance(texts, str) else texts).split()
    threats: list[Threat] = []
    for word in words:
        norm, colon, radii = word.partition(":")
        if not colon or not radii:
            raise ArgumentError("threat", word, "write NORM:EPS[,EPS...], for example Linf:2/255,4/255")
        for radius in radii.split(","):
            threat = Threat(check_norm(norm, "threat"), parse_eps(radius, "threat"))
            if threat.eps == 0:
                raise ArgumentError("threat", word, "eps must be above 0 (clean accuracy is always reported)")
            if threat.norm == "Linf" and threat.eps > 1:
                raise ArgumentError("threat", word, f"{radius} is beyond the pixel box; did you mean {radius}/255?")
            if threat not in threats:
                threats.append(threat)
    if not threats:
        raise ArgumentError("threat", texts, "name at least one, for example Linf:8/255")
    return threats
