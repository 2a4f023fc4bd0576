"""The model that a page is about, and what the page is told of an image, piece by piece."""

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from temper import models
from temper.app import inspection
from temper.app.inspection import Attacked, Found, Inspection
from temper.app.verdict import radius, verdict
from temper.attacks.crafting import crafting
from temper.attacks.losses import predicted
from temper.attacks.suites import get_suite
from temper.deployment.images import image_of
from temper.deployment.prediction import Failure, Prediction, Predictor, as_input, names_of
from temper.errors import ArgumentError, TemperWarning
from temper.evaluation.fitness import warn_if_unfit
from temper.models.model_text import run_folder
from temper.report.content import Picture, picture
from temper.report.figures import magnified_difference
from temper.report.views import AccuracyCurve, SampleView, format_distance
from temper.runs.run import CONFIG, Run
from temper.runs.views import curves_in
from temper.threat import Norm, Threat

LARGEST_FILE = 32 * 2**20  # bytes: photos of today's phones take a third of that
MOST_PIXELS = 64_000_000
USUAL = Threat("Linf", 8 / 255)  # where neither detector nor training says what is asked of the model
TELL_SECONDS = 0.3
REST_SECONDS = 10
TRIED = 4  # images of random pixels that show whether attacks can work at all

Event = Mapping[str, object]
Tell = Callable[[Event], None]
"""Takes the next piece of what there is to say, as JSON can hold it; raises where nobody listens any more."""


@dataclass
class Session:
    """A model that is looked at, one image at a time.

    Attributes:
        name: of what the page is about.
        predictor: what decides.
        threat: norm, and the radius in whose light decisions are seen: the detector's, else that of the training.
        curve: accuracy against epsilon in that norm; None where it was not measured.
        notes: what is to be known of the model before any of its answers is believed.
    """

    name: str
    predictor: Predictor
    threat: Threat
    curve: AccuracyCurve | None = None
    notes: tuple[str, ...] = ()

    _turn: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    @classmethod
    def load(cls, spec: str, image_size: int | None = None) -> "Session":
        """The model, detector and evidence that a MODEL names.

        Raises:
            ArgumentError, ModelError: no such model, or it does not say what size its images have. EvidenceError: the
                detector or the evidence cannot be read, or is another model's.
        """
        predictor = Predictor.load(spec, image_size)
        if predictor.classifier.image_size is None:
            raise ArgumentError("image-size", None, f"{spec} does not say what size its images have; give --image-size")
        threat = predictor.detector.threat if predictor.detector else _trained_for(spec)
        folder = run_folder(spec)
        radii, own = inspection.steps(threat), models.fingerprint(predictor.classifier)
        curves = curves_in(folder, own, radii) if folder else {}
        name = folder.resolve().name if folder else spec
        return cls(name, predictor, threat, curves.get(threat.norm), tuple(_unfit(predictor)))

    def image(self, content: bytes) -> Tensor:
        """A file's bytes as the model takes them: uint8 [C, H, W].

        Raises:
            DataError: no image, a damaged one, or too many pixels; one line.
        """
        classifier = self.predictor.classifier
        return image_of(content, classifier.image_size, classifier.channels, MOST_PIXELS)

    def tell(self, image: Tensor, tell: Tell) -> None:
        """Say all that there is to say of an image uint8 [C, H, W], when those before it are done."""
        with self._in_turn(tell):
            (decision,) = self.predictor.decide(["the image"], image[None])
            if isinstance(decision, Failure):
                tell({"error": decision.reason})
                return
            clean = _pixels(image)
            tell({"decision": self._decision(decision, clean)} | self._verdict(decision, Found()))
            inspected = Inspection(self.predictor, self.threat, image, decision, _bar(tell, self.threat.norm))
            first = Found(inspected.first())
            tell(self._nearest(first, clean) | self._verdict(decision, first))
            attacked = inspected.attacked()
            tell({"attacked": [self._attacked(each, clean, decision) for each in attacked]})
            for found in inspected.nearest([first.nearest, *(each.flip for each in attacked)]):
                tell(self._nearest(found, clean) | self._verdict(decision, found))
            tell({"done": True})

    def rest(self) -> None:
        """Wait until no image is looked at; not for ever, where a pass of the model takes long."""
        if self._turn.acquire(timeout=REST_SECONDS):
            self._turn.release()

    @contextmanager
    def _in_turn(self, tell: Tell) -> Iterator[None]:
        """Inside, no other image is looked at; until then, the page is told that it waits, if it is still there."""
        while not self._turn.acquire(timeout=TELL_SECONDS):
            tell({"waiting": True})
        try:
            yield
        finally:
            self._turn.release()

    def _decision(self, decision: Prediction, clean: NDArray[np.uint8]) -> Event:
        return {
            "class": decision.class_name,
            "confidence": decision.confidence,
            "margin": decision.margin,
            "picture": _shown(picture(clean / 255, "The image as the model takes it")),
        }

    def _verdict(self, decision: Prediction, found: Found) -> dict[str, object]:
        becomes = "" if found.nearest is None else names_of(self.predictor.classifier)[found.nearest.becomes]
        return {"verdict": asdict(verdict(self.threat, decision, self.predictor.detector, found, becomes))}

    def _attacked(self, attacked: Attacked, clean: NDArray[np.uint8], decision: Prediction) -> Event:
        words = format_distance(attacked.eps, self.threat.norm)
        # Next to the boundary the model may say one thing in a batch and another alone, as which it counts.
        name = names_of(self.predictor.classifier)[attacked.flip.becomes] if attacked.flip else decision.class_name
        return {
            "eps": attacked.eps,
            "class": name,
            "confidence": attacked.decision.confidence,
            "changed": attacked.flip is not None,
        } | self._pictures(clean, attacked.image, f"The image attacked within {words}")

    def _nearest(self, found: Found, clean: NDArray[np.uint8]) -> dict[str, object]:
        if found.nearest is None:
            return {}
        flip, name = found.nearest, names_of(self.predictor.classifier)[found.nearest.becomes]
        away = radius(Threat(self.threat.norm, flip.distance))
        facts = {"eps": flip.distance, "away": away, "class": name}
        what = f"The nearest image found that is decided otherwise, as {name}"
        return {"nearest": facts | self._pictures(clean, flip.image, what)}

    def _pictures(self, clean: NDArray[np.uint8], moved: Tensor, what: str) -> dict[str, object]:
        """An image beside its difference from the clean one, which is magnified."""
        adversarial = moved.permute(1, 2, 0).double().cpu().numpy()
        difference, factor = magnified_difference(SampleView(clean, adversarial, "", "", "", 0.0, self.threat.norm))
        return {
            "picture": _shown(picture(adversarial, what)),
            "difference": _shown(picture(difference, f"Its difference from the image, magnified {factor} times")),
            "factor": factor,
        }


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    """uint8 [C, H, W] as pictures have them: [H, W, C]."""
    pixels: NDArray[np.uint8] = image.permute(1, 2, 0).numpy()
    return pixels


def _shown(made: Picture) -> Event:
    return asdict(made)


def _bar(tell: Tell, norm: Norm) -> Callable[[int], None]:
    """What counts the images of passes, and says now and then how far it is."""
    done, last, total = 0, time.monotonic(), inspection.images(norm)

    def tick(images: int) -> None:
        nonlocal done, last
        done += images
        if time.monotonic() - last > TELL_SECONDS:
            last = time.monotonic()
            tell({"progress": min(done / total, 1.0)})

    return tick


def _trained_for(spec: str) -> Threat:
    folder = run_folder(spec)
    if folder is None or not (folder / CONFIG).exists():
        return USUAL
    return Run(folder).config.threats[0]


def _unfit(predictor: Predictor) -> list[str]:
    """What is wrong with a model for attacks on it, which is warned of as everywhere."""
    classifier = predictor.classifier
    size = classifier.image_size
    noise = torch.rand(TRIED, classifier.channels, size or 0, size or 0, generator=torch.Generator().manual_seed(0))
    x = as_input(classifier, noise)
    with warnings.catch_warnings(record=True) as caught, crafting(classifier):
        warnings.simplefilter("always", TemperWarning)
        with torch.no_grad():
            logits = classifier(x)
        warn_if_unfit(classifier, x, predicted(logits), logits, get_suite("standard"))
    told = [str(each.message) for each in caught if issubclass(each.category, TemperWarning)]
    for message in told:
        warnings.warn(message, TemperWarning, stacklevel=3)
    return told
