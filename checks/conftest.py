"""Checks of the repository itself: documents, studies, benchmarks and layout, held to what was recorded and stated.

`pytest` alone runs tests/, which test the package; CI also runs `pytest checks`.
"""

import os
import sys
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # tiny models: threads cost more than they bring
ROOT = Path(__file__).resolve().parent.parent
# The helpers of the tests, and the programs that are checked, which import what is beside them.
sys.path += [str(ROOT / folder) for folder in ("tests", "benchmarks", "studies", "studies/clients")]


@pytest.fixture(scope="session")
def donor(tmp_path_factory) -> Path:
    from checkpoints import save_donor

    return save_donor(tmp_path_factory.mktemp("checkpoints") / "donor")


@pytest.fixture(scope="session")
def lost(tmp_path_factory, donor) -> Path:
    from checkpoints import save_lost

    return save_lost(tmp_path_factory.mktemp("checkpoints") / "lost", donor)
