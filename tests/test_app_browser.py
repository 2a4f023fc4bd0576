"""The page of temper app in a browser: drop, slide, wrong file."""

import base64
import os
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from served import CURVE, Brightness, grey, served, session_of
from temper.app.session import LARGEST_FILE

pytestmark = pytest.mark.slow

DROP = """([content, name, zeros]) => {
  const bytes = [Uint8Array.from(atob(content), (each) => each.charCodeAt(0)), new Uint8Array(zeros)];
  const dropped = new DataTransfer();
  if (name) dropped.items.add(new File(bytes, name));
  for (const kind of ["dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: dropped, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def server():
    with served(session_of(Brightness(), CURVE)) as server:
        yield server


@pytest.fixture
def visit(browser, server):
    """Opens the page; at the end, nothing may have been logged, or asked for elsewhere."""
    troubles, pages = [], []

    def opened(width=1200, scheme="light", expected=()):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.set_default_timeout(30_000)
        page.on("console", lambda told: any(each in told.text for each in expected) or troubles.append(told.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        own = urlsplit(server.address).netloc
        page.on("request", lambda asked: urlsplit(asked.url).netloc in (own, "") or troubles.append(asked.url))
        pages.append(page)
        page.goto(server.address)
        return page

    yield opened
    for page in pages:
        page.close()
    assert troubles == []


def drop(page, content, name="image.png", zeros=0):
    page.evaluate(DROP, [base64.b64encode(content).decode(), name, zeros])


def over(page):
    page.get_by_text("The search is over.").wait_for()


def test_an_image_is_dropped_and_seen_through(visit):
    page = visit()
    assert page.is_hidden("#decided")
    drop(page, grey(133))
    over(page)
    assert page.text_content("#class") == "1"
    assert page.text_content("#confidence") == "70.3 %"
    assert page.text_content("#margin") == "0.863"
    assert page.text_content("#headline") == "Brittle at Linf 8/255"
    assert page.locator("#nearest img").count() == 3
    assert page.text_content("#away").startswith("Distance Linf 5.5/255.")
    assert page.locator("#nearest div").nth(2).inner_text().split() == ["difference", "×", "23"]
    assert all(page.locator("img:visible").evaluate_all("(all) => all.map((each) => each.naturalWidth === 8)"))
    assert page.is_hidden("#error")


def test_the_slider_shows_the_attacked_image_at_each_epsilon(visit):
    page = visit()
    drop(page, grey(133))
    over(page)
    slider, moved = page.locator("#eps"), page.locator("#moved")
    assert page.text_content("#at") == "8/255"
    assert "At ε = 8/255 50.0 % of the test images" in page.text_content("#measured")
    assert page.locator("#curve .mark").count() == 2
    said, pictures = {}, set()
    slider.press("Home")
    for step in range(17):
        said[page.text_content("#at")] = moved.locator("b").first.inner_text()
        pictures.add(moved.locator("img").first.get_attribute("src"))
        slider.press("ArrowRight")
        assert step < 16 or page.text_content("#at") == "16/255"
    assert [words[0] for words in said.values()] == ["1"] * 6 + ["0"] * 11
    assert len(said) == len(pictures) == 17
    assert "not measured beyond 8/255" in page.text_content("#measured")
    assert page.locator("#curve .mark").count() == 1


@pytest.mark.parametrize(
    ("content", "zeros", "name", "words"),
    [
        (b"no image", 0, "notes.txt", "notes.txt: not an image, or of a kind that is not read"),
        (grey(3)[:45], 0, "half.png", "half.png: not a readable image"),
        (b"", 0, "<i>empty", "<i>empty: not an image"),
        (b"", LARGEST_FILE + 1, "film.mp4", f"film.mp4: has {LARGEST_FILE + 1} bytes"),
    ],
    ids=["text", "half", "empty", "large"],
)
def test_a_wrong_file_is_one_line_and_the_next_is_taken(visit, content, zeros, name, words):
    page = visit(expected=["422"])
    drop(page, grey(133))
    over(page)
    drop(page, content, name, zeros)
    page.locator("#error").wait_for()
    assert page.text_content("#error").startswith(words)
    assert page.is_hidden("#decided")
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": grey(90)})
    over(page)
    assert page.text_content("#class") == "0"
    assert page.is_hidden("#error")


def test_what_is_dropped_may_be_no_file(visit):
    page = visit()
    drop(page, b"", name="")
    assert page.text_content("#error").startswith("what was dropped is no file")


def test_a_server_that_is_gone_is_said(browser):
    page = browser.new_page()
    with served(session_of(Brightness())) as server:
        page.goto(server.address)
    drop(page, grey(133))
    page.get_by_text("is temper app still running?").wait_for(timeout=30_000)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(visit, scheme):
    page = visit(width=375, scheme=scheme)
    drop(page, grey(133))
    over(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator("#choose").bounding_box()["height"] >= 40
    assert page.locator("#eps").bounding_box()["height"] >= 30


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_it_with_one_line():
    words = [sys.executable, "-m", "temper", "app", "--run", "bundled", "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    address = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert address.startswith("http://127.0.0.1:")
    assert process.returncode == 0, err
    assert err.splitlines()[-1] == "temper: the page is closed"
    assert len(err.splitlines()) == 2  # the other one is that no detector was fitted
