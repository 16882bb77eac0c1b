"""A time is judged where the machine is quiet, and otherwise said."""

import io
import itertools

import pytest

from tests import quiet
from tests.claims import Claims
from tests.lab.__main__ import judge

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("seconds", "busy", "status", "said"),
    [
        (59.0, 1.0, 0, "✓ within 60 s: 59 s"),
        (61.0, 1.0, 1, "✗ within 60 s: 61 s"),
        (61.0, 2.5, 0, "took 61 s. Not judged: others use this machine (work takes 2.5 times its time)."),
    ],
)
def test_the_labs_minute_is_judged_on_a_quiet_machine_only(seconds: float, busy: float, status: int, said: str) -> None:
    out = io.StringIO()
    assert judge(seconds, busy, Claims(out)) == status
    assert said in out.getvalue()


@pytest.mark.parametrize(("taken", "expected"), [([1.0, 1.0, 1.0], 1.0), ([1.0, 1.0, 4.0], 2.0)])
def test_the_anchor_is_the_mean_beside_the_best(
    taken: list[float], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock by which each piece of work takes what is given for it; the rest takes nothing."""
    moments = [0.0]
    for seconds in taken:
        now = moments[-1]
        moments += [now, now, now + seconds]
    moments += [moments[-1]]
    monkeypatch.setattr(quiet, "WINDOW_SECONDS", sum(taken))
    monkeypatch.setattr("tests.quiet.time.monotonic", itertools.chain(moments).__next__)
    assert quiet.stretch() == pytest.approx(expected)
