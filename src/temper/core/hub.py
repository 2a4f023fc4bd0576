"""The Hugging Face hub's client, made to say in time that there is no network."""

import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

ANSWER_SECONDS = 10


@contextmanager
def prompt_hub() -> Iterator[None]:
    """Inside, the hub's client makes do with its cache where the hub cannot be reached, and is quiet.

    Left alone it asks six times for each file, also for those in its cache, and tells every time twice.
    """
    from huggingface_hub import constants  # part of a second, which models without such weights need not wait for

    logger, offline = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level = logger.level
    try:
        constants.HF_HUB_OFFLINE = offline or not answers(constants.ENDPOINT)
        logger.setLevel(logging.ERROR)
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logger.setLevel(level)


def answers(url: str) -> bool:
    """Whether there is a way to a server: what it says, or a certificate that is not known here, is an answer too."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        nowhere = (socket.gaierror, ConnectionError, TimeoutError)
        return not (isinstance(error.reason, nowhere) or type(error.reason) is OSError)
    except TimeoutError:
        return False
    return True
