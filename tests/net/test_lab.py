"""``make lab`` as a test: whatever it claims must be true here too."""

import sys
from pathlib import Path

import pytest

from tests.claims import Claims
from tests.lab.checks import HTTP_PORT, TLS_PORT, ChecksStory, certificate
from tests.lab.kinds import PORTS, KindsStory
from tests.lab.mixed import MixedStory
from tests.lab.place import DIRECTORS, Place
from tests.lab.story import Story

pytestmark = pytest.mark.net


def test_every_claim_of_the_lab_is_true(tmp_path: Path) -> None:
    with Place(tmp_path) as place:
        claims = Claims(sys.stdout)
        assert Story(place, claims).tell() == 0, [claim for claim in claims.made if not claim.true]


@pytest.mark.parametrize("director", DIRECTORS)
def test_every_claim_of_the_lab_is_true_with_keepalived_as_the_other_director(director: str, tmp_path: Path) -> None:
    with Place(tmp_path, keepalived=director) as place:
        claims = Claims(sys.stdout)
        assert MixedStory(place, claims).tell() == 0, [claim for claim in claims.made if not claim.true]


def test_every_claim_of_the_lab_is_true_of_every_scheduler_and_way_of_forwarding(tmp_path: Path) -> None:
    with Place(tmp_path, ports=PORTS.values()) as place:
        claims = Claims(sys.stdout)
        assert KindsStory(place, claims).tell() == 0, [claim for claim in claims.made if not claim.true]


def test_every_claim_of_the_lab_is_true_of_every_health_check(tmp_path: Path) -> None:
    tls = ("--tls-port", str(TLS_PORT), "--certificate", str(certificate(tmp_path)))
    with Place(tmp_path, ports=[HTTP_PORT], tls=tls) as place:
        claims = Claims(sys.stdout)
        assert ChecksStory(place, claims).tell() == 0, [claim for claim in claims.made if not claim.true]
