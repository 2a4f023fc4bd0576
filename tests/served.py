"""A page about a model that serves in a thread, and questions to it."""

import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from temper.app.server import AppServer
from temper.app.session import USUAL, Session
from temper.deployment.prediction import Predictor
from temper.margins.intervals import Estimate
from temper.models import Classifier
from temper.models.preprocessing import Preprocessing
from temper.report.views import AccuracyCurve

SHARE = Estimate(0.5, 0.4, 0.6, 100)
CURVE = AccuracyCurve({0.0: replace(SHARE, value=0.8, high=0.9), 8 / 255: SHARE})


class Brightness(nn.Module):
    """Two logits: class 1 where the pixels' mean is above 0.5, by a margin of 40 times the difference."""

    def forward(self, x: Tensor) -> Tensor:
        away = 20 * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-away, away], 1)


def classifier(network: nn.Module) -> Classifier:
    """Of two classes, on 8x8 images."""
    return Classifier(network, Preprocessing((0, 0, 0), (1, 1, 1), 8), head=(), num_classes=2).eval()


def session_of(network: nn.Module, curve: AccuracyCurve | None = None) -> Session:
    """A model that is looked at, without a detector."""
    return Session("<b>a model", Predictor(classifier(network), None), USUAL, curve)


@contextmanager
def served(session: Session) -> Iterator[AppServer]:
    """The page of a session on a free port."""
    over = threading.Event()
    with AppServer("127.0.0.1", 0) as server:
        server.timeout = 0.02
        thread = threading.Thread(target=server.serve, args=(session, over.is_set))
        thread.start()
        try:
            yield server
        finally:
            over.set()
            thread.join(timeout=60)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels uint8 [H, W] or [H, W, 3] as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def grey(level: int) -> bytes:
    """An image of one grey."""
    return png(np.full((8, 8, 3), level, dtype=np.uint8))


@contextmanager
def asked(
    server: AppServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> Iterator[http.client.HTTPResponse]:
    """An answer whose content is still to be read; underscores in names of headers stand for dashes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        with connection.getresponse() as answer:
            yield answer
    finally:
        connection.close()


def ask(
    server: AppServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and content of an answer."""
    with asked(server, method, path, body, **headers) as answer:
        return answer.status, dict(answer.getheaders()), answer.read()


@contextmanager
def begun(server: AppServer, body: bytes, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """An image that is sent as the page sends it, and the answer as soon as it begins."""
    own = {"Origin": server.address.rstrip("/"), **headers}
    with asked(server, "POST", "/image", body, **own) as answer:
        yield answer


def send(server: AppServer, body: bytes, **headers: str) -> tuple[int, list[dict[str, Any]]]:
    """Status and events of an image that is sent so."""
    with begun(server, body, **headers) as answer:
        return answer.status, [json.loads(line) for line in answer.read().splitlines()]
