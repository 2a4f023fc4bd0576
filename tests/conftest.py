"""Fixtures shared by all tests."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

# Files whose tests compare numbers that the processor's instructions and the number of threads may round otherwise:
# continuous integration repeats them on others (pytest -m numerical).
NUMERICAL = {
    "test_attacks", "test_bench_running", "test_crafting", "test_engine", "test_evaluation", "test_fab", "test_finite",
    "test_finetune", "test_hyperplane", "test_nearest", "test_resuming", "test_square",
}  # fmt: skip

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and networks beside the repository; a user has none of it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the developers' shared/data folder beside the repository")
    return SHARED_DATA


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """An object store of this machine, and what tells programs where it is."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    values = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    yield values
    server.stop()
    for key, value in before.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})


@pytest.fixture
def bucket(s3_server: dict[str, str]) -> str:
    """A place in a new bucket of that store."""
    import s3fs

    name = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/results"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the numerical tests."""
    for item in items:
        if item.path.stem in NUMERICAL:
            item.add_marker(pytest.mark.numerical)
