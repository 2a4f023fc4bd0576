"""The page on a port of this machine: one page to get, one place to send an image to, and nothing else.

No path leads to a file. Who asks must name this machine by an address or as localhost, so that no other site's name can
be pointed here (DNS rebinding), and an image must come from the page itself.
"""

import ipaddress
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import ClassVar
from urllib.parse import urlsplit

from temper.app.page import POLICY, page
from temper.app.session import LARGEST_FILE, Event, Session
from temper.errors import ArgumentError, DataError, TemperError
from temper.text import first_line, one_line

log = logging.getLogger(__name__)

PAGE, IMAGE = "/", "/image"
WAITING = 4  # images in the server at once; more are turned away
UPLOAD_SECONDS = 60  # that an upload may take
SILENT_SECONDS = 20  # that a connection may say nothing
POLL_SECONDS = 0.3


class AppServer(ThreadingTCPServer):
    """A port that is held from the beginning, and serves once it knows what.

    Args:
        host: an address of this machine; port: 0 takes a free one.

    Raises:
        ArgumentError: it cannot be had.
    """

    allow_reuse_address = os.name == "posix"
    daemon_threads = True  # a browser holds connections open that it says nothing on
    timeout = POLL_SECONDS

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise _refused(host, port, error) from None
        self.host, self.port = host, int(self.server_address[1])
        self.room, self.stopping = threading.Semaphore(WAITING), False

    @property
    def address(self) -> str:
        """Where a browser on this machine finds the page."""
        host = ipaddress.ip_address(self.socket.getsockname()[0])
        if host.is_unspecified:
            host = ipaddress.ip_address("::1" if host.version == 6 else "127.0.0.1")
        return f"http://{f'[{host}]' if host.version == 6 else host}:{self.port}/"

    @property
    def reachable(self) -> bool:
        """Whether other machines can ask for the page."""
        return not ipaddress.ip_address(self.socket.getsockname()[0]).is_loopback

    def serve(self, session: Session, stopped: Callable[[], bool]) -> None:
        """Answer until it is stopped; what is being computed then ends within a pass of the model."""
        self.session, self.html = session, page(session).encode()
        while not stopped():
            self.handle_request()
        self.stopping = True
        session.rest()

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever hangs up is no error."""
        log.debug("a connection ended", exc_info=True)


class Refused(Exception):  # noqa: N818  (an answer, not a fault)
    """A request that is not granted: status and one line that says why."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Gone(Exception):  # noqa: N818  (an outcome, not a fault)
    """Nobody waits for the rest of an answer: the server is stopping."""


class Handler(BaseHTTPRequestHandler):
    """One request, one answer, and the connection ends."""

    server: AppServer
    timeout = SILENT_SECONDS
    server_version, sys_version = "temper", ""
    # Beside the policy: nobody guesses a type, keeps a copy, learns of the address or frames the page.
    HEADERS: ClassVar[dict[str, str]] = {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }

    def do_GET(self) -> None:
        """The page."""
        try:
            self._check_host()
            if self.path != PAGE:
                raise Refused(HTTPStatus.NOT_FOUND, f"there is nothing here but {PAGE}")
        except Refused as refused:
            self._refuse(refused)
        else:
            self._begin(HTTPStatus.OK, "text/html; charset=utf-8", len(self.server.html))
            self.wfile.write(self.server.html)

    def do_POST(self) -> None:
        """An image in, and what there is to say of it out, a JSON object in a line each, as it comes."""
        if not self.server.room.acquire(blocking=False):
            self._refuse(Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"{WAITING} images are waiting; try again later"))
            return
        try:
            self._check_host()
            self._check_upload()
            image = self.server.session.image(self._upload())
        except Refused as refused:
            self._refuse(refused)
        except DataError as error:
            self._refuse(Refused(HTTPStatus.UNPROCESSABLE_ENTITY, one_line(str(error))))
        else:
            self._begin(HTTPStatus.OK, "application/x-ndjson")
            with suppress(OSError, Gone):  # whoever asked has left, or everything ends
                self._answer(lambda: self.server.session.tell(image, self._tell))
        finally:
            self.server.room.release()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing of who asked what is kept."""

    def _answer(self, say: Callable[[], None]) -> None:
        try:
            say()
        except (OSError, Gone):
            raise
        except TemperError as error:
            self._tell({"error": one_line(str(error))})
        except Exception as error:  # of a user's model, or a mistake of Temper's
            log.exception("the image could not be looked at")
            self._tell({"error": f"{type(error).__name__}: {one_line(first_line(error))}"})

    def _tell(self, event: Event) -> None:
        if self.server.stopping:
            raise Gone
        self.wfile.write(json.dumps(event, allow_nan=False).encode() + b"\n")

    def _check_host(self) -> None:
        hosts = self.headers.get_all("Host") or [""]
        if len(hosts) != 1 or not _is_plain(hosts[0]):
            why = f"this page is at {self.server.address}; a name other than localhost is not answered to"
            raise Refused(HTTPStatus.FORBIDDEN, why)

    def _check_upload(self) -> None:
        if self.path != IMAGE:
            raise Refused(HTTPStatus.NOT_FOUND, f"images go to {IMAGE}")
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            raise Refused(HTTPStatus.FORBIDDEN, "images are taken from this page alone")
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or "Transfer-Encoding" in self.headers:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "say how many bytes there are (Content-Length)")
        if int(length) > LARGEST_FILE:
            why = f"the file has {int(length):,} bytes; at most {LARGEST_FILE:,} are taken"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)

    def _upload(self) -> bytes:
        missing, parts, end = int(self.headers["Content-Length"]), list[bytes](), time.monotonic() + UPLOAD_SECONDS
        while missing and (part := self.rfile.read1(min(missing, 2**20))):
            parts.append(part)
            missing -= len(part)
            if time.monotonic() > end:
                break
        if missing:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the file did not arrive whole; send it again")
        return b"".join(parts)

    def _refuse(self, refused: Refused) -> None:
        content = json.dumps({"error": refused.why}).encode()
        self._begin(refused.status, "application/json", len(content))
        self.wfile.write(content)

    def _begin(self, status: HTTPStatus, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in self.HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()


def _is_plain(host: str) -> bool:
    """Whether a Host header names a machine by its address or as localhost: nobody else can have such a name."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name) is not None
    except ValueError:
        return False


def _refused(host: str, port: int, error: OSError) -> ArgumentError:
    if error.errno == EADDRINUSE:
        return ArgumentError("port", port, "is taken by another program; choose another, or 0 for any that is free")
    if error.errno == EACCES:
        return ArgumentError("port", port, "may not be used; choose one above 1023, or 0 for any that is free")
    if error.errno == EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        fix = "is no address of this machine; give one, 127.0.0.1 for this machine alone or 0.0.0.0 for all it has"
        return ArgumentError("host", host, fix)
    return ArgumentError("host", host, f"cannot be used ({error.strerror or error})")
