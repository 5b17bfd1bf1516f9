"""Fixtures for every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The gate tries the same examples every time; on a desk new ones are searched. Neither asks how long one takes.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("desk", deadline=None)
settings.load_profile("gate" if os.environ.get("CI") else "desk")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and weights beside the repository; a user has none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the real images and weights in ../shared")
    return folder
