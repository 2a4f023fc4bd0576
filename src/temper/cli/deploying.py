"""The commands that put a model to use: predict, export, app."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass

from temper.cli import DONE, FAILED, STOPPED, end
from temper.core.calls import BatchSize, PixelCount
from temper.errors import ArgumentError


@dataclass(frozen=True)
class Predict:
    """Classify images: class, confidence (softmax), logit margin, and whether the decision is brittle, which takes a
    detector in the run's folder (temper margins fits one). Images that cannot be read are reported, and the rest is
    classified.

    Example: find uploads -name "*.jpg" | temper predict --run runs/robust --csv - > decisions.csv
    """

    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders to search through for some, or - for paths on stdin, one per line."""
    run_: Annotated[str, tyro.conf.arg(name="run")]
    """A run folder; timm:NAME[@weights-file], module:factory, onnx:FILE, torch:FILE and bundled work too."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""
    csv: bool = False
    """Print a header and a row per image, as they come."""
    batch_size: BatchSize = "auto"
    """Images classified at once; it does not change the result."""
    image_size: PixelCount | None = None
    """Height and width in pixels that images are brought to, as in training; the model's own by default."""

    def run(self) -> int:
        """Classify and print."""
        from temper.cli import console
        from temper.core.interrupt import Stop
        from temper.deployment.images import find_images
        from temper.deployment.prediction import Predictor, no_detector, watched

        if self.json and self.csv:
            raise ArgumentError("csv", True, "give --json or --csv, not both")
        paths = find_images(self.images, sys.stdin.buffer if sys.stdin else None)
        stdout = sys.stdout
        # A user's model may print, and a bar takes stdout over while it shows; answers go to stdout itself.
        with contextlib.redirect_stdout(sys.stderr), Stop() as stop:
            predictor = Predictor.load(self.run_, self.image_size)
            if predictor.detector is None:
                end(no_detector(self.run_), DONE)
            batch = None if self.batch_size == "auto" else self.batch_size
            rows_show_it = self.csv and stdout.isatty()
            outcomes = predictor(paths, batch, lambda: stop.requested)
            seen = watched(outcomes, len(paths), enabled=not rows_show_it)
            if self.csv:
                done, failed = console.write_predictions(seen, stdout)
            else:
                decided = list(seen)
                show = console.write_predictions_json if self.json else console.show_predictions
                done, failed = show(decided, predictor.summary(), stdout)
        if done < len(paths):
            return end(f"stopped after {done} of {len(paths)} images", STOPPED)
        return end(f"{failed} of {done} images could not be classified", FAILED) if failed else DONE


@dataclass(frozen=True)
class Export:
    """Write a model as one file that runs without Temper: images in, logits, logit margin and brittle or not out, with
    the normalisation inside. The file is checked against the model before it is kept.

    Example: temper export --run runs/robust --format onnx --out robust.onnx
    """

    run_: Annotated[str, tyro.conf.arg(name="run")]
    """A run folder; timm:NAME[@weights-file], module:factory, onnx:FILE, torch:FILE and bundled work too."""
    format: Literal["onnx", "torch"]
    """onnx, or torch for torch.export."""
    out: Path
    """The file to write, .onnx or .pt2."""
    detector: Path | None = None
    """A detector's JSON file; by default the run's own."""
    image_size: PixelCount | None = None
    """Height and width in pixels of the file's images; the model's own by default."""

    def run(self) -> int:
        """Write, check, and say what was written."""
        from temper.cli.console import show_export
        from temper.deployment.exporting import export
        from temper.deployment.prediction import no_detector

        done = export(self.run_, self.format, self.out, self.detector, self.image_size)
        show_export(done)
        if "brittle" not in done.outputs:
            end(f"{no_detector(self.run_)} (the file has no output brittle)", DONE)
        return DONE


@dataclass(frozen=True)
class App:
    """Serve a page about a model to a browser on this machine. Drop an image on it: class, confidence, logit margin,
    whether the decision is brittle and why, the nearest image found that is decided otherwise, a slider over epsilon
    with the attacked image at each, and the model's accuracy curve. The page loads nothing from elsewhere, and images
    are not kept. Ctrl-C ends it.

    Example: temper app --run runs/robust
    """

    run_: Annotated[str, tyro.conf.arg(name="run")]
    """A run folder; timm:NAME[@weights-file], module:factory, onnx:FILE and bundled work too. A run's detector (temper
    margins) and accuracy curve (temper evaluate) are shown where it has them."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8255
    """Where the page is; 0 takes any port that is free."""
    host: str = "127.0.0.1"
    """The address to listen on: 127.0.0.1 is for this machine alone. With another one of its addresses, or 0.0.0.0 for
    all, everybody who reaches this machine (a phone in the same network, too) can send it images."""
    image_size: PixelCount | None = None
    """Height and width in pixels that images are brought to, as in training; the model's own by default."""

    def run(self) -> int:
        """Serve until Ctrl-C."""
        from temper.app.server import AppServer
        from temper.app.session import Session
        from temper.cli.console import say
        from temper.core.interrupt import Stop
        from temper.deployment.prediction import no_detector

        with AppServer(self.host, self.port) as server, Stop() as stop:
            with contextlib.redirect_stdout(sys.stderr):  # a user's model may print
                session = Session.load(self.run_, self.image_size)
            if session.predictor.detector is None:
                end(no_detector(self.run_), DONE)
            if server.reachable:
                end(f"everybody who reaches this machine on port {server.port} can send it images", DONE)
            say(server.address)
            sys.stdout.flush()
            server.serve(session, lambda: stop.requested)
        return end("the page is closed", DONE)
