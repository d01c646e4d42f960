"""What the crash tests share: the harness of tests/integration, and the build with faults."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "integration"))

import harness  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes more than some seconds; left out by a quick run")


def pytest_collection_modifyitems(items):
    if not harness.NBDD.exists():
        for item in items:
            item.add_marker(pytest.mark.skip(reason=f"no nbdd at {harness.NBDD}: build first"))


@pytest.fixture
def faulty_build():
    """The folder of a build with -DNBDD_FAULTS: there NBDD_FAULT names what goes wrong."""
    folder = os.environ.get("NBDD_FAULTS_BUILD", harness.REPO / "build-faults")
    if not (Path(folder) / "daemon" / "nbdd").exists():
        pytest.skip("no build with faults (NBDD_FAULTS_BUILD)")
    return Path(folder)
