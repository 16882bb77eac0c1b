"""A node that is not Active dies under 50 new connections a second. It is down for what follows."""

import pytest

from tests.e2e.deaths import Death

pytestmark = pytest.mark.e2e


def test_no_new_connection_fails_that_began_half_a_second_after_the_crash_or_later(backup: Death) -> None:
    print(backup)
    assert not backup.outage.late, str(backup)
