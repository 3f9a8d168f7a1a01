"""What all tests share: examples and random numbers that are the same in every run, and one way to open a page.

A busy machine is slow, and that is no fault of what is tested: examples have no deadline.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

# `pytest --hypothesis-profile search` looks for examples that no run has tried.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=False)
settings.register_profile("palimpsest", settings.get_profile("search"), derandomize=True, database=None)
settings.load_profile("palimpsest")

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--disable-component-update",
    "--disable-background-networking", "--disable-dev-shm-usage", "--no-first-run",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seeds what draws without a generator of its own: which test ran before depends on how fast the workers are."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """``browser(address, *flags)``: what headless Chromium prints; a start that failed is tried once more."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium found")

    def run(address: str, *flags: str) -> str:
        for _ in range(2):
            profile = tmp_path_factory.mktemp("profile")  # another browser may not have left the last one yet
            command = [program, *FLAGS, f"--user-data-dir={profile}", *flags, address]
            done = subprocess.run(command, capture_output=True, timeout=120)
            if not done.returncode:
                break
            print(done.stderr.decode("utf-8", "replace")[-2000:])
        return done.stdout.decode("utf-8", "replace")

    return run
