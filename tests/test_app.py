"""The page of temper app: what it says of an image, and whom it answers."""

import json
import socket
import threading
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from deployed import detector_of
from evidence import table
from served import CURVE, Brightness, ask, begun, classifier, grey, png, send, served, session_of
from temper import models
from temper.app.inspection import RADII, Found, Inspection, steps
from temper.app.page import page
from temper.app.server import WAITING, AppServer, _is_plain
from temper.app.session import LARGEST_FILE, MOST_PIXELS, USUAL, Session
from temper.app.verdict import verdict
from temper.attacks.work import Flip
from temper.deployment.prediction import Prediction, Predictor
from temper.errors import ArgumentError, DataError, EvidenceError, ModelError
from temper.margins.detector import BrittlenessDetector
from temper.margins.table import EvidenceTable
from temper.threat import Threat


@pytest.fixture(scope="module")
def server():
    with served(session_of(Brightness(), CURVE)) as server:
        yield server


def joined(events):
    """The last word on everything."""
    return {name: value for event in events for name, value in event.items()}


# --- what is said of an image ---------------------------------------------------------------------


def test_a_linear_model_is_seen_through(server):
    """The nearest change of 133/255 is where all pixels are at 127.5/255."""
    status, events = send(server, grey(133))
    said = joined(events)
    assert status == 200
    assert said["decision"]["class"] == "1"
    assert said["decision"]["margin"] == pytest.approx(40 * 5.5 / 255, rel=1e-4)
    assert said["decision"]["confidence"] == pytest.approx(1 / (1 + np.exp(-40 * 5.5 / 255)), rel=1e-4)
    assert said["nearest"]["eps"] == pytest.approx(5.5 / 255, rel=0.01)
    assert said["nearest"]["eps"] >= 5.5 / 255 * (1 - 1e-6)
    assert said["nearest"]["class"] == "0"
    assert said["nearest"]["factor"] == 23  # 0.5 over 5.5/255
    assert [each["eps"] * 255 for each in said["attacked"]] == pytest.approx(list(range(1, RADII + 1)))
    assert [each["changed"] for each in said["attacked"]] == [eps > 5.5 for eps in range(1, RADII + 1)]
    assert [each["class"] for each in said["attacked"]] == ["1"] * 5 + ["0"] * 11
    assert said["verdict"]["kind"] == "brittle"
    assert "Linf 5.5/255 away is decided as 0" in said["verdict"]["reasons"][0]
    assert events[-1] == {"done": True}
    first, last = (each(place for place, event in enumerate(events) if "nearest" in event) for each in (min, max))
    assert events[first]["nearest"]["eps"] > events[last]["nearest"]["eps"]
    assert events[first]["verdict"]["kind"] == "brittle"
    assert "decision" in events[first - 1]
    assert "attacked" in events[first + 1]


def test_what_is_far_from_a_change_is_not_called_brittle(server):
    said = joined(send(server, grey(160))[1])
    assert said["nearest"]["eps"] == pytest.approx(32.5 / 255, rel=0.01)
    assert said["verdict"]["kind"] == "quiet"
    assert said["verdict"]["headline"] == "No change found within Linf 8/255"
    assert not any(each["changed"] for each in said["attacked"])


def test_a_model_without_a_gradient_is_not_called_robust():
    class Cut(Brightness):
        def forward(self, x):
            return super().forward(x.detach())

    with served(session_of(Cut())) as server:
        said = joined(send(server, grey(133))[1])
    assert "nearest" not in said
    assert said["verdict"]["kind"] == "unknown"
    assert "no sign of robustness" in said["verdict"]["reasons"][0]


class Failing(Brightness):
    def forward(self, x):
        if x.requires_grad:
            raise ValueError("the model's own\nreasons")
        return super().forward(x)


def test_a_model_that_fails_ends_in_one_line_and_the_next_image_is_looked_at(caplog):
    with served(session_of(Failing())) as server:
        events = send(server, grey(133))[1]
        assert "decision" in events[0]
        assert events[-1] == {"error": "ValueError: the model's own"}
        assert "decision" in send(server, grey(133))[1][0]
    assert "the image could not be looked at" in caplog.text


class Nothing(Brightness):
    def forward(self, x):
        return super().forward(x) / 0


def test_logits_without_numbers_are_said():
    with served(session_of(Nothing())) as server:
        assert send(server, grey(133))[1] == [{"error": "the model's logits on it are not finite"}]


DECISION = Prediction("", "cat", 1, 0.9, 1.0, None)
FLIP = Flip(4 / 255, torch.zeros(1), 0)


def inspected_at(level, tick):
    image = torch.full((3, 8, 8), level, dtype=torch.uint8)
    return Inspection(Predictor(classifier(Brightness()), None), USUAL, image, DECISION, tick)


@pytest.mark.parametrize(("level", "changes"), [(133, True), (160, False)])
def test_a_first_answer_comes_in_a_sixteenth_of_the_work(level, changes):
    asked: list[int] = []
    inspected = inspected_at(level, asked.append)
    assert (inspected.first() is not None) == changes
    first = sum(asked)
    inspected.attacked()
    assert first <= (sum(asked) - first) / 10


def test_whoever_leaves_ends_the_work():
    def tick(images):
        raise BrokenPipeError

    inspected = inspected_at(133, tick)
    for look in (inspected.first, inspected.attacked, lambda: list(inspected.nearest())):
        with pytest.raises(BrokenPipeError):
            look()


def test_whoever_hangs_up_gives_way_to_the_next(monkeypatch):
    """Without it, the second would wait for more than a hundred passes."""
    passes: list[int] = []

    class Counting(Brightness):
        def forward(self, x):
            passes.append(len(x))
            time.sleep(0.01)
            return super().forward(x)

    monkeypatch.setattr("temper.app.session.TELL_SECONDS", 0.001)
    with served(session_of(Counting())) as server:
        with begun(server, grey(133)) as answer:
            answer.readline()
        with server.session._turn:
            assert 0 < len(passes) < 100


@pytest.mark.parametrize(
    ("flagged", "found", "kind", "words"),
    [
        (None, Found(), "unknown", "Searching"),
        (True, Found(), "suspect", "Flagged"),
        (False, Found(FLIP), "brittle", "Brittle at Linf 8/255"),
        (True, Found(FLIP, over=True), "brittle", "Brittle at Linf 8/255"),
        (False, Found(replace(FLIP, distance=9 / 255), over=True), "quiet", "No change found within Linf 8/255"),
        (True, Found(replace(FLIP, distance=9 / 255), over=True), "suspect", "Flagged"),
        (None, Found(over=True), "quiet", "No change found"),
        (None, Found(over=True, blind=True), "unknown", "Nothing is known"),
    ],
)
def test_a_change_that_was_seen_goes_before_what_is_flagged(flagged, found, kind, words):
    told = verdict(USUAL, replace(DECISION, brittle=flagged), None, found, "dog")
    assert told.kind == kind
    assert told.headline.startswith(words)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bundled network as a run's folder, with a detector that flags margins up to 2."""
    folder = tmp_path_factory.mktemp("app") / "run"
    models.save(models.load("bundled"), folder)
    detector_of(folder, 2.0).save(folder / "detector.json")
    return folder


def test_the_detector_says_its_part(saved):
    detector = BrittlenessDetector.load(saved / "detector.json")
    (_, low) = verdict(USUAL, replace(DECISION, brittle=True), detector, Found(FLIP), "dog").reasons
    (_, high) = verdict(USUAL, replace(DECISION, brittle=False, margin=3.0), detector, Found(FLIP), "dog").reasons
    assert low == "The detector flags it: its logit margin, 1, is not above 2."
    assert high.startswith("The detector lets it pass: its logit margin, 3, is above 2.")
    assert "5 %" in high


# --- the session ----------------------------------------------------------------------------------


def test_a_folder_gives_detector_threat_and_name(saved):
    session = Session.load(str(saved))
    assert session.name == "run"
    assert session.threat == Threat("Linf", 8 / 255)
    assert session.curve is None
    assert session.notes == ()


def test_the_curve_is_known_at_each_step_of_the_slider(tmp_path):
    folder = tmp_path / "run"
    models.save(models.load("bundled"), folder)
    evidence = table([3.2 / 255, 20 / 255], [1.0, 2.0])
    identity = {"model": models.fingerprint(models.load(folder)), "data": "d"}
    known = replace(evidence.provenance, radii={"margin": {"Linf": [8 / 255]}})
    EvidenceTable(evidence.frame, identity, known).save(folder / "margins.parquet")
    curve = Session.load(str(folder)).curve
    points = {**curve.between, **curve.points}
    assert [points[eps].value for eps in steps(USUAL)[:9]] == [1.0] * 4 + [0.5] * 5


def test_evidence_of_another_model_is_refused(tmp_path):
    folder = tmp_path / "run"
    models.save(models.load("bundled"), folder)
    table([0.1], [1.0]).save(folder / "margins.parquet")
    with pytest.raises(EvidenceError, match="another model"):
        Session.load(str(folder))


def test_what_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(ArgumentError, match="run = 'nowhere'"):
        Session.load("nowhere")
    with pytest.raises((ArgumentError, ModelError)):
        Session.load(str(tmp_path))


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an image"),
        (b"GIF89a", "not"),
        (b"no image", "not an image"),
        (grey(100)[:45], "not a readable image"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(50), "not"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%PDF-1.4", "not an image"),
    ],
)
def test_a_wrong_file_is_one_line(server, content, words):
    status, (event,) = send(server, content)
    assert status == 422
    assert words in event["error"]
    assert "\n" not in event["error"]
    assert "upload" not in event["error"]


def test_an_image_of_too_many_pixels_is_refused_before_any_is_read():
    wide = np.zeros((1, 1), dtype=np.uint8)
    content = bytearray(png(wide))
    content[16:24] = 2 * (8001).to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    assert MOST_PIXELS < 8001**2
    with pytest.raises(DataError, match="has 64,016,001 pixels; at most 64,000,000 are taken"):
        session_of(Brightness()).image(bytes(content))


def test_a_file_of_too_many_bytes_is_refused_unread(server):
    status, (event,) = send(server, b"", Content_Length=str(LARGEST_FILE + 1))
    assert status == 413
    assert f"has {LARGEST_FILE + 1:,} bytes" in event["error"]


@pytest.mark.parametrize("length", ["", "-1", "1e3", "٣", "many"])
def test_a_length_that_is_none_is_refused(server, length):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        head = "POST /image HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
        connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
        assert b" 411 " in connection.makefile("rb").readline()


def test_a_file_that_breaks_off_is_said(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        head = "POST /image HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nContent-Length: 100"
        connection.sendall(f"{head}\r\n\r\nabc".encode())
        connection.shutdown(socket.SHUT_WR)
        assert b" 408 " in connection.makefile("rb").readline()


# --- whom it answers ------------------------------------------------------------------------------


def test_the_page_may_load_nothing_and_nobody_may_frame_or_keep_it(server):
    status, headers, content = ask(server, "GET", "/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers
    html = content.decode()
    assert "http://" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in html


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8255", "localhost.evil.example", "", "127.0.0.1.nip.io"]
)
def test_another_sites_name_is_not_answered(server, host):
    """A site may point its name at this machine; the browser then says that name."""
    for method, path, body in (("GET", "/", None), ("POST", "/image", grey(133))):
        status, _, content = ask(server, method, path, body, Host=host, Origin=f"http://{host}")
        assert status == 403
        assert b"localhost" in content


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1:8255", "[::1]:8255", "192.168.0.7"])
def test_an_address_is_a_name_of_this_machine(host):
    assert _is_plain(host)


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "https://{own}", "http://{own}.evil.example"])
def test_an_image_comes_from_the_page_itself(server, origin):
    own = f"127.0.0.1:{server.port}"
    headers = {} if origin is None else {"Origin": origin.format(own=own)}
    status, _, content = ask(server, "POST", "/image", grey(133), **headers)
    assert status == 403
    assert json.loads(content)["error"] == "images are taken from this page alone"


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/etc/passwd", "//etc/passwd", "/app.js", "/?x", "*", "/image"]
)
def test_no_path_leads_to_a_file(server, path):
    status, _, content = ask(server, "GET", path)
    assert status == 404
    assert b"root:" not in content


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_not_known(server, method):
    assert ask(server, method, "/image")[0] == 501


def test_names_are_text_and_never_markup():
    session = replace(session_of(Brightness(), CURVE), notes=("</script><img src=x>",))
    html = page(session)
    assert "<b>a model" not in html
    assert "<img src=x>" not in html
    assert "&lt;b&gt;a model" in html


def test_images_wait_for_one_another_and_too_many_are_turned_away():
    go, inside = threading.Event(), threading.Semaphore(0)

    class Slow(Nothing):
        def forward(self, x):
            go.wait(30)
            return super().forward(x)

    ended: list[bool] = []
    with served(session_of(Slow())) as server:

        def wait_inside() -> None:
            with begun(server, grey(133)) as answer:
                inside.release()
                ended.append(b"not finite" in answer.read())

        threads = [threading.Thread(target=wait_inside) for _ in range(WAITING)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert inside.acquire(timeout=30)
        status, (event,) = send(server, grey(133))
        go.set()
        for thread in threads:
            thread.join(60)
    assert status == 503
    assert "try again later" in event["error"]
    assert ended == [True] * WAITING


def test_a_port_that_is_taken_is_named():
    with AppServer("127.0.0.1", 0) as one, pytest.raises(ArgumentError, match=f"port = {one.port}: is taken"):
        AppServer("127.0.0.1", one.port)
    with pytest.raises(ArgumentError, match=r"host = '203.0.113.1': is no address of this machine"):
        AppServer("203.0.113.1", 0)


def test_only_this_machine_unless_told():
    with AppServer("127.0.0.1", 0) as server:
        assert not server.reachable
    with AppServer("0.0.0.0", 0) as server:
        assert server.reachable
        assert server.address == f"http://127.0.0.1:{server.port}/"
