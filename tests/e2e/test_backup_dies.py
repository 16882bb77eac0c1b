"""A node that is not Active dies under 50 new connections a second. It is down for what follows."""

import pytest

from tests.e2e.conftest import BUSY, Death

pytestmark = pytest.mark.e2e


def test_new_connections_fail_for_a_moment_only(backup: Death) -> None:
    print(backup)
    assert backup.failing <= BUSY, backup
