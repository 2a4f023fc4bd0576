"""A classifier in use: decisions on image files, with confidence, logit margin and whether each is brittle."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from temper import models
from temper.attacks.crafting import crafting
from temper.attacks.losses import predicted
from temper.attacks.verification import filled
from temper.core.precision import check_precision, full_precision
from temper.core.progress import Bar, progress_bar
from temper.deployment.images import read_image
from temper.errors import ArgumentError, DataError, naming
from temper.evaluation import fitness, measurement
from temper.evaluation.memory import fitting_batch
from temper.evaluation.samples import device_of, on_device
from temper.margins.detector import DETECTOR, BrittlenessDetector
from temper.models import Classifier
from temper.models.heads import SHAPE_REFUSALS
from temper.models.known import OUTPUT_NAMES
from temper.models.model_text import run_folder
from temper.text import first_line

LARGEST_BATCH = 256  # more would only delay the first answer
MIXED_BATCH = 32  # of a model that takes images of any size
DECODERS = min(8, os.cpu_count() or 1)
LOOKED_AT = 16  # images that show whether a model decides on each by itself
QUIET_SECONDS = 3  # work that takes no longer shows no bar


class Deployed(nn.Module):
    """A classifier that says with each decision whether it is brittle.

    Args:
        classifier: float NCHW in [0, 1] to logits [N, K].
        threshold: logit margins up to here are brittle; None where no detector was fitted.
    """

    def __init__(self, classifier: nn.Module, threshold: float | None) -> None:
        super().__init__()
        self.classifier, self.threshold = classifier, threshold

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits float [N, K], logit margins float [N] and, with a threshold, brittle bool [N].

        Logits that overflow give a margin that is NaN or infinite, and a decision that counts as brittle.
        """
        logits: Tensor = self.classifier(images)
        top = logits.topk(2, 1).values
        margin = top[:, 0] - top[:, 1]
        if self.threshold is None:
            return logits, margin
        return logits, margin, ~((margin > self.threshold) & (margin < torch.inf))


@dataclass(frozen=True)
class Prediction:
    """A decision on an image.

    Attributes:
        image: its path.
        class_name, class_index: what was decided.
        confidence: softmax probability of that class.
        margin: the largest logit less the second largest.
        brittle: what the detector says; None without one.
    """

    image: str
    class_name: str
    class_index: int
    confidence: float
    margin: float
    brittle: bool | None


@dataclass(frozen=True)
class Failure:
    """An image on which nothing could be decided, and why."""

    image: str
    reason: str


ImageResult = Prediction | Failure
Loaded = tuple[str, Tensor | Failure]


def load_detector(spec: str, classifier: Classifier) -> BrittlenessDetector | None:
    """The detector in the folder that a MODEL names; None where there is none.

    Raises:
        EvidenceError: it cannot be read, or was fitted for another model.
    """
    folder = run_folder(spec)
    if folder is None or not (folder / DETECTOR).exists():
        return None
    return BrittlenessDetector.load(folder / DETECTOR, models.fingerprint(classifier))


def no_detector(spec: str) -> str:
    """What to tell a person who has no detector: why there is no answer, and how to get one."""
    model = spec if run_folder(spec) else "DIR"
    return (
        f"{spec}: no detector was fitted, so which decisions are brittle is unknown; fit one:"
        f' temper margins --model {model} --data DATA --threat "Linf:8/255"'
    )


def names_of(classifier: Classifier) -> list[str]:
    """A name for each class: the training data's, what its source calls it, or its number."""
    names = classifier.info.get("class_names") or classifier.info.get(OUTPUT_NAMES) or []
    return [*names, *map(str, range(len(names), classifier.num_classes))][: classifier.num_classes]


# --- decisions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Predictor:
    """Decides on image files.

    Attributes:
        classifier: in eval mode, where it is to compute.
        detector: of its brittle decisions, if one was fitted.
    """

    classifier: Classifier
    detector: BrittlenessDetector | None

    @classmethod
    def load(cls, spec: str, image_size: int | None = None) -> "Predictor":
        """The model and detector that a MODEL names, on the GPU where there is one.

        Images are brought to ``image_size``; None: to the model's.

        Raises:
            ArgumentError, ModelError: no such model. EvidenceError: the detector cannot be read, or is another model's.
        """
        with naming({"model": "run"}):
            classifier = measurement.load_classifier(spec, image_size)
        check_precision(classifier)
        return cls(classifier, load_detector(spec, classifier))

    def __call__(
        self, paths: Sequence[str], batch_size: int | None = None, interrupted: Callable[[], bool] = lambda: False
    ) -> Iterator[ImageResult]:
        """Decide on images, in their order; those ahead are decoded meanwhile.

        Args:
            paths: of image files.
            batch_size: images that the model sees at once; by default that goes by their size and the memory.
            interrupted: asked before each batch, whether to stop.

        Raises:
            ArgumentError: a batch size below 1.
        """
        if batch_size is not None and batch_size < 1:
            raise ArgumentError("batch-size", batch_size, "must be at least 1")
        return self._outcomes(paths, batch_size or self._fitting_batch(), interrupted)

    def decide(self, names: Sequence[str], images: Tensor) -> list[ImageResult]:
        """The outcomes of images of one size, uint8 or float in [0, 1], [N, C, H, W], which are called so."""
        return self._group(self._deployed, names, images)

    def summary(self) -> dict[str, object] | None:
        """The detector in ``temper predict --json``."""
        if self.detector is None:
            return None
        threat, calibration = self.detector.threat, self.detector.calibration
        return {
            "threat": str(threat),
            "norm": threat.norm,
            "eps": threat.eps,
            "alpha": self.detector.alpha,
            "threshold": self.detector.threshold,
            "suite": calibration.suite,
            "flag_rate": calibration.flag_rate.to_json(),
        }

    @property
    def _deployed(self) -> Deployed:
        return Deployed(self.classifier, self.detector.threshold if self.detector else None)

    def _fitting_batch(self) -> int:
        size = self.classifier.image_size
        if size is None:
            return MIXED_BATCH
        one = torch.zeros(1, self.classifier.channels, size, size, device=device_of(self.classifier))
        return min(fitting_batch(self.classifier, one), LARGEST_BATCH)

    def _outcomes(self, paths: Sequence[str], size: int, interrupted: Callable[[], bool]) -> Iterator[ImageResult]:
        deployed = self._deployed
        pool = ThreadPoolExecutor(DECODERS)
        checked = False
        try:
            loaded = _ahead(pool, self._load, paths, 2 * size)
            while not interrupted() and (batch := list(islice(loaded, size))):
                outcomes = self._decide(deployed, batch)
                checked = checked or self._check_fitness(batch, outcomes)
                yield from outcomes
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, path: str) -> Loaded:
        try:
            return path, read_image(path, self.classifier.image_size, self.classifier.channels)
        except DataError as error:
            return path, Failure(path, str(error))

    def _decide(self, deployed: Deployed, batch: Sequence[Loaded]) -> list[ImageResult]:
        """The outcomes of a batch, in its order; images of one size go through the model together."""
        outcomes: list[ImageResult | None] = [None] * len(batch)
        groups: dict[torch.Size, list[int]] = {}
        for place, (_, image) in enumerate(batch):
            if isinstance(image, Failure):
                outcomes[place] = image
            else:
                groups.setdefault(image.shape, []).append(place)
        for places in groups.values():
            paths = [batch[place][0] for place in places]
            images = torch.stack([image for place in places if isinstance(image := batch[place][1], Tensor)])
            for place, outcome in zip(places, self._group(deployed, paths, images), strict=True):
                outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _check_fitness(self, batch: Sequence[Loaded], outcomes: Sequence[ImageResult]) -> bool:
        """Warn of a model that is random or whose outputs depend on the batch; whether any image could show it."""
        decided = zip(batch, outcomes, strict=True)
        images = [image for (_, image), made in decided if isinstance(made, Prediction) and isinstance(image, Tensor)]
        alike = [image for image in images if image.shape == images[0].shape][:LOOKED_AT]
        if not alike:
            return False
        x = as_input(self.classifier, torch.stack(alike))
        with crafting(self.classifier), full_precision(x.device):
            fitness.warn_if_inconstant(self.classifier, x)
        return True

    def _group(self, deployed: Deployed, paths: Sequence[str], images: Tensor) -> list[ImageResult]:
        """The outcomes of images of one size, [N, C, H, W]."""
        try:
            logits, margin, *brittle = _forward(deployed, images)
        except SHAPE_REFUSALS as error:
            if self.classifier.image_size is not None or isinstance(error, torch.OutOfMemoryError):
                raise
            size, reason = "x".join(map(str, images.shape[1:])), first_line(error)
            return [Failure(path, f"the model takes no image of {size} ({reason})") for path in paths]
        names = names_of(self.classifier)
        finite = torch.isfinite(logits).all(1).tolist()
        chosen = predicted(logits)
        confidence = logits.double().softmax(1).gather(1, chosen[:, None]).squeeze(1)
        flags: list[bool | None] = brittle[0].tolist() if brittle else [None] * len(paths)
        numbers = zip(paths, finite, chosen.tolist(), confidence.tolist(), margin.tolist(), flags, strict=True)
        return [
            Prediction(path, names[k], k, sure, gap, flag)
            if usable
            else Failure(path, "the model's logits on it are not finite")
            for path, usable, k, sure, gap, flag in numbers
        ]


@torch.no_grad()
def _forward(deployed: Deployed, images: Tensor) -> list[Tensor]:
    """What a model makes of images [N, C, H, W], computed as the clean pass of an evaluation is."""
    x = as_input(deployed, images)
    with crafting(deployed), full_precision(x.device):
        return [output[: len(x)].cpu() for output in deployed(filled(x))]


def as_input(model: nn.Module, images: Tensor) -> Tensor:
    """Images uint8, or float in [0, 1], [N, C, H, W] as the model takes them."""
    place = torch.zeros(len(images), dtype=torch.int64)
    return next(on_device(model, iter([(images, place, place)])))[0]


def _ahead(
    pool: ThreadPoolExecutor, load: Callable[[str], Loaded], paths: Iterable[str], window: int
) -> Iterator[Loaded]:
    """What ``load`` makes of each path, in order; at most ``window`` are begun before they are asked for."""
    begun: deque[Future[Loaded]] = deque()
    for path in paths:
        begun.append(pool.submit(load, path))
        if len(begun) == window:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def watched(outcomes: Iterator[ImageResult], total: int, *, enabled: bool) -> Iterator[ImageResult]:
    """The same outcomes, with a progress bar once they have taken a while."""
    started = time.monotonic()
    bar: Bar | None = None
    with ExitStack() as stack:
        for done, outcome in enumerate(outcomes, 1):
            if bar is not None:
                bar.advance()
            elif time.monotonic() - started > QUIET_SECONDS:
                bar = stack.enter_context(progress_bar("predicting", total, done, enabled=enabled))
            yield outcome
