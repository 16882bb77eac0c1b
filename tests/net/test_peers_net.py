"""Real VRRP routers of others, and our election: each takes over from the other, gives back, and takes leave."""

from pathlib import Path

import pytest

from tests.net.interop import PROFILES
from tests.net.peers import BETTER, OURS, PEER, SLACK, WORSE, Contest, Profile, Software

pytestmark = pytest.mark.net


@pytest.mark.parametrize("ours_is_better", [True, False], ids=["ours is better", "the peer is better"])
@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_we_and_the_peer_replace_each_other_within_its_interval_and_ours(
    profile: Profile, ours_is_better: bool, tmp_path: Path
) -> None:
    better, worse = (OURS, PEER) if ours_is_better else (PEER, OURS)
    with Contest(profile, tmp_path, ours_is_better=ours_is_better) as contest:
        # Whoever is up first serves; the better one has its address at last.
        contest.await_active(better, 2 * profile.down(WORSE) + 2.0)

        contest.lan.cut(better)
        contest.await_takeover(worse, profile.down(WORSE) + SLACK)
        contest.lan.heal(better)
        contest.await_active(better, profile.down(BETTER) + SLACK)
        assert not any(contest.dropped().values()), contest.dropped()

        assert contest.release(better) < profile.after_release()
        contest.await_takeover(worse, SLACK)


def test_with_another_password_each_ignores_the_other_and_serves(tmp_path: Path) -> None:
    profile = Profile(software=Software.KEEPALIVED, version=2, password="1111")
    with Contest(profile, tmp_path, ours_is_better=True, our_password="2222") as contest:
        contest.await_takeover(OURS, profile.down(BETTER) + 2.0)
        contest.await_serving(PEER, profile.down(WORSE) + SLACK)
        dropped = {reason: count for reason, count in contest.dropped().items() if count}
        assert list(dropped) == ["password"], dropped
        assert contest.serves(OURS)
