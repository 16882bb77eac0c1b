"""The fuzzer of the decoder: a small run, and what it notices."""

import pytest

from lvsagent.vrrp import packet
from tests.fuzz import vrrp

pytestmark = pytest.mark.unit


def test_20000_damaged_packets_raise_nothing_and_reach_every_rung() -> None:
    counts, failures = vrrp.run(1, 20_000)
    assert failures == []
    assert vrrp.missing(counts) == []
    assert sum(counts.values()) == 20_000
    assert counts["accepted"] > 1000


def test_the_same_seed_gives_the_same_packets() -> None:
    assert vrrp.run(5, 500) == vrrp.run(5, 500)
    assert vrrp.run(5, 500) != vrrp.run(6, 500)


def test_a_decoder_that_raises_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: bytes) -> None:
        raise IndexError("index out of range")

    monkeypatch.setattr(vrrp, "parse_ipv4", broken)
    _, failures = vrrp.run(1, 50)
    assert failures
    assert failures[0].startswith("IndexError('index out of range') from ")


def test_an_advert_read_wrongly_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(got: packet.Advertisement, **kept: object) -> bytes:
        return packet.encode(got, **kept)[:-1] + b"\x5a"  # type: ignore[arg-type]

    monkeypatch.setattr(vrrp, "encode", broken)
    _, failures = vrrp.run(1, 200)
    assert any(failure.startswith("not the same octets again: ") for failure in failures)


def test_a_checksum_that_is_not_verified_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet, "_checksum_form", lambda *_: packet.ChecksumForm.MESSAGE)
    _, failures = vrrp.run(1, 500)
    assert any(failure.startswith("not the same octets again: ") for failure in failures)


def test_an_hmac_that_is_not_verified_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lvsagent.vrrp.auth.hmac.compare_digest", lambda *_: True)
    _, failures = vrrp.run(1, 2000)
    assert any(failure.startswith("accepted without a right HMAC: ") for failure in failures)
