"""Settings that every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_ROOT = Path(__file__).parent
# Emulators that deploy/tools.sh unpacked; tests look for them on PATH.
os.environ["PATH"] = f"{_ROOT}/build/tools/bin{os.pathsep}{os.environ.get('PATH', '')}"
# How long an input takes to make is the machine's business: a loaded one must not fail a test.
settings.register_profile("wherry", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("wherry")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need root are skipped without it, each with the reason in the summary."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root (network namespaces, TAP)"))
