"""Fixtures shared by all tests."""

import importlib.util
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch reads it: processes side by side must not share cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell that runs tests in the background has them ignore Ctrl-C, and so their children; but some press it themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
# Files that take longest, so that none of them is begun last.
LONGEST = (
    "test_proven",
    "test_ray_engine",
    "test_bench_running",
    "test_parity",
    "test_margins_command",
    "test_resuming",
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and networks beside the repository; a user has none of it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the developers' shared/data folder beside the repository")
    return SHARED_DATA


@pytest.fixture(scope="session")
def network(shared_data: Path):
    """Loads one of the trained networks in shared/data."""
    spec = importlib.util.spec_from_file_location("networks", shared_data / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load


@pytest.fixture(scope="module")
def bent():
    """A network that bends, images and its decisions."""
    from attack_cases import bent_case

    return bent_case()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """An object store of this machine, and what tells programs where it is."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    # It would tell of each request through a handler that keeps whatever stderr there was: one that pytest closes.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
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


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; a machine may have none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"needs one of {', '.join(names)} on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def bucket(s3_server: dict[str, str]) -> str:
    """A place in a new bucket of that store."""
    import s3fs

    name = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/results"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, whose drawing takes longer than a tiny run."""
    monkeypatch.setattr("temper.report.content.drawn", lambda figure: "data:,")


@pytest.fixture
def warm_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings with several processes fork them from one that has imported all they need, and save the seconds that a
    fresh interpreter takes for that; they get their task, and do it, as spawned ones do."""
    from lightning_fabric.strategies import STRATEGY_REGISTRY

    multiprocessing.set_forkserver_preload(["temper.runs.finetune", "lightning_fabric", "torch.distributed"])
    monkeypatch.setitem(STRATEGY_REGISTRY["ddp_spawn"]["init_params"], "start_method", "forkserver")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)
