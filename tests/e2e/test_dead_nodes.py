"""The crash of a Backup and that of the Active node, side by side."""

import pytest

from tests.e2e.conftest import BUSY, Crash, Death

pytestmark = pytest.mark.e2e

LATEST = 1.0
"""Seconds after the crash until when new connections may fail, in the better of two crashes. The aim is 0.5."""


def test_new_connections_fail_for_a_moment_only(backup: Death, crash: Crash) -> None:
    print(f"{backup}\n{crash}")
    assert min(backup.failing, crash.failing) <= LATEST, (backup, crash)
    assert max(backup.failing, crash.failing) <= BUSY, (backup, crash)
