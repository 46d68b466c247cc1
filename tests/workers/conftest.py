"""What several tests of the workers share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder where the digits classifier is trained at most once."""
    return tmp_path_factory.mktemp("cache")
