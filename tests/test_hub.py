"""Pretrained weights without a network: told at once, and taken from the cache where they are there."""

import errno
import logging
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from email.message import Message

import pytest
from huggingface_hub import constants

from temper.core.hub import answers, prompt_hub
from temper.errors import ModelError
from temper.models import load

URL = "https://huggingface.co"


def refuse(monkeypatch, error):
    def urlopen(*_, **__):
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


@pytest.mark.parametrize(
    ("error", "answered"),
    [
        (urllib.error.URLError(socket.gaierror(-2, "Name or service not known")), False),
        (urllib.error.URLError(ConnectionRefusedError()), False),
        (urllib.error.URLError(OSError(errno.ENETUNREACH, "Network is unreachable")), False),
        (urllib.error.URLError(TimeoutError()), False),
        (TimeoutError(), False),
        (urllib.error.URLError(ssl.SSLCertVerificationError()), True),  # the hub's client may know the certificate
        (urllib.error.HTTPError(URL, 403, "forbidden", Message(), None), True),
    ],
)
def test_a_server_answers_unless_there_is_no_way_to_it(monkeypatch, error, answered):
    refuse(monkeypatch, error)
    assert answers(URL) == answered


@pytest.mark.parametrize("ends", [None, ValueError("x")])
def test_the_hubs_client_is_left_as_it_was(monkeypatch, ends):
    refuse(monkeypatch, TimeoutError())
    before = logging.getLogger("huggingface_hub").level, constants.HF_HUB_OFFLINE
    try:
        with prompt_hub():
            assert constants.HF_HUB_OFFLINE
            if ends:
                raise ends
    except ValueError:
        pass
    assert (logging.getLogger("huggingface_hub").level, constants.HF_HUB_OFFLINE) == before


def test_weights_that_cannot_be_fetched_are_told_in_one_line(monkeypatch, tmp_path, caplog, capfd):
    refuse(monkeypatch, urllib.error.URLError(socket.gaierror(-2, "Name or service not known")))
    waits, sleep = [], time.sleep

    def waited(seconds):  # what the client does between two tries; other threads sleep as ever
        (waits.append if threading.current_thread() is threading.main_thread() else sleep)(seconds)

    monkeypatch.setattr("time.sleep", waited)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"timm:resnet18.a1_in1k: its weights are not in the cache.*copy") as caught:
        load("timm:resnet18.a1_in1k")
    assert "\n" not in str(caught.value)
    assert waits == []
    assert caplog.records == []
    assert capfd.readouterr().err == ""


def test_what_torchvision_fetches_is_no_part_of_an_answer(monkeypatch, tmp_path, capsys):
    refuse(monkeypatch, urllib.error.URLError(socket.gaierror(-2, "Name or service not known")))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=r"torchvision:resnet18: its weights are not in the cache.*copy"):
        load("torchvision:resnet18")
    out, err = capsys.readouterr()
    assert out == ""
    assert "Downloading" in err
