"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and networks beside the repository; a user has none of it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the developers' shared/data folder beside the repository")
    return SHARED_DATA
