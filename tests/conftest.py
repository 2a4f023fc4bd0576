"""Fixtures shared by all tests."""

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the numerical tests."""
    for item in items:
        if item.path.stem in NUMERICAL:
            item.add_marker(pytest.mark.numerical)
