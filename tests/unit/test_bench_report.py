"""What the benchmark concludes: a wrong quantile or a generous verdict would let a slow election look good."""

import json
import socket

import pytest

from lvsagent.vrrp import packet
from tests.bench.burden import checksum, malformed_packets
from tests.bench.figures import Figure, Summary, longer_by, number, spread, table
from tests.bench.sides import KEEPALIVED, OURS, OURS_FAST, TUNED, TUNED_REALTIME, configuration
from tests.bench.trace import Answer, Trace, additions, gap_in, lateness, longest_gap, outage

pytestmark = pytest.mark.unit

VIP = "10.0.0.200"
DR1, DR2 = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"


def figure(ours: list[float], anchor: list[float] | None = None, **fields: object) -> Figure:
    beside = Summary("keepalived", tuple(anchor)) if anchor else None
    return Figure(name="f", title="t", unit="ms", ours=Summary("ours", tuple(ours)), anchor=beside, **fields)  # type: ignore[arg-type]


def ip_frame(mac: bytes, protocol: int, source: str, destination: str, payload: bytes) -> bytes:
    head = b"\x45" + bytes(8) + bytes([protocol]) + bytes(2) + socket.inet_aton(source) + socket.inet_aton(destination)
    return b"\xff" * 6 + mac + b"\x08\x00" + head + payload


def advert(priority: int, source: str = "10.0.0.11", virtual_router_id: int = 51) -> bytes:
    return ip_frame(DR1, 112, source, "224.0.0.18", bytes([0x31, virtual_router_id, priority, 1, 0, 10, 0, 0]))


def test_quantiles_are_values_that_were_measured() -> None:
    hundred = Summary("x", tuple(float(value) for value in range(100, 0, -1)))
    assert (hundred.median, hundred.p99, hundred.p999, hundred.max) == (50.5, 99.0, 100.0, 100.0)
    thirty = Summary("x", tuple(float(value) for value in range(1, 31)))
    assert thirty.p99 == 30.0
    assert Summary("x", (7.0,)).p99 == 7.0


def test_a_side_without_samples_is_no_side() -> None:
    with pytest.raises(ValueError, match="keepalived: no samples"):
        Summary("keepalived", ())


def test_a_limit_is_held_up_to_its_value_and_missed_above() -> None:
    assert figure([249.0, 250.0, 251.0], limits={"median": 250}).verdict == "held"
    missed = figure([249.0, 250.5, 251.0], limits={"median": 250, "p99": 270})
    assert missed.verdict == "missed"
    assert missed.broken == ("median 250.5 above 250",)
    assert figure([1.0]).verdict == "measured"


def test_longer_than_the_anchor_is_missed_only_beyond_noise_and_resolution() -> None:
    slow, quick = [300.0 + each for each in range(30)], [200.0 + each for each in range(30)]
    assert figure(slow, quick, beside=True).verdict == "missed"
    assert figure(quick, slow, beside=True).verdict == "held"
    assert figure(slow, quick, beside=True, resolution=50.0).verdict == "missed"
    assert figure(slow, quick, beside=True, resolution=120.0).verdict == "held"
    assert figure([201.0 + each for each in range(30)], quick, beside=True).verdict == "held"


def test_the_interval_of_a_difference_encloses_it_and_is_the_same_every_time() -> None:
    ours, anchor = [10.0 + each % 7 for each in range(30)], [20.0 + each % 5 for each in range(30)]
    least, most = longer_by(ours, anchor)
    assert least <= -9.0 <= most
    assert longer_by(ours, anchor) == (least, most)


def test_the_ratio_is_of_what_is_compared_and_silent_beside_nothing() -> None:
    assert figure([10.0, 10.0, 40.0], [20.0, 20.0, 20.0]).ratio == 0.5
    assert figure([10.0, 10.0, 40.0], [20.0, 20.0, 20.0], compared="max").ratio == 2.0
    assert figure([0.0], [0.0]).ratio is None
    assert figure([1.0]).ratio is None


def test_a_figure_in_json_has_both_sides_ratio_limit_verdict_and_load() -> None:
    machine = {"date": "2026-01-01", "load_before": 1.0}
    entry = json.loads(json.dumps(figure([1.0, 3.0], [4.0], limits={"max": 2}, machine=machine).to_json()))
    assert entry["ours"] == {
        "who": "ours", "runs": 2, "median": 2.0, "p99": 3.0, "p999": 3.0, "max": 3.0, "samples": [1.0, 3.0]
    }  # fmt: skip
    assert (entry["anchor"]["who"], entry["anchor"]["max"], entry["ratio"]) == ("keepalived", 4.0, 0.5)
    assert (entry["limit"], entry["verdict"], entry["machine"]) == ({"max": 2}, "missed", machine)
    assert "samples" not in figure([1.0] * 1000).to_json()["ours"]


def test_the_table_has_a_line_for_each_figure_and_its_verdict() -> None:
    lines = table([figure([1.0], [2.0], limits={"max": 2}, beside=True), figure([5.0])]).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert "max <= 2, <= anchor | held" in lines[2]
    assert "measured" in lines[3]


def test_numbers_keep_three_digits() -> None:
    assert [number(value) for value in (0.0, 0.01234, 2.0, 99.94, 307.4, 0.5)] == [
        "0", "0.0123", "2.00", "99.9", "307", "0.500"
    ]  # fmt: skip


def test_phases_cover_the_interval_evenly_in_an_order_that_can_be_repeated() -> None:
    phases = spread(4, seed=1)
    assert sorted(phases) == [0.125, 0.375, 0.625, 0.875]
    assert phases == spread(4, seed=1)


def test_a_trace_keeps_questions_answers_and_adverts_and_nothing_else() -> None:
    trace = Trace.empty()
    for at, frame in enumerate(
        [
            ip_frame(DR1, 1, "10.0.0.1", VIP, b"\x08\0\0\0"),
            ip_frame(DR1, 1, VIP, "10.0.0.1", b"\0\0\0\0"),
            ip_frame(DR1, 1, "10.0.0.7", "10.0.0.1", b"\0\0\0\0"),
            advert(250),
            advert(0),
            advert(250, virtual_router_id=52),
            b"\xff" * 12 + b"\x08\x06" + bytes(40),
            b"short",
            ip_frame(DR1, 112, "10.0.0.11", "224.0.0.18", b"\x31"),
        ]
    ):
        trace.add(float(at), frame, VIP)
    assert (trace.requests, trace.answers) == ([0.0], [Answer(1.0, DR1)])
    assert trace.of("10.0.0.11") == [3.0]
    assert trace.of("10.0.0.11", 52) == [5.0]
    assert len(trace.adverts) == 3


def test_an_outage_counts_from_the_last_answer_to_the_first_and_knows_the_age_of_the_last_advert() -> None:
    trace = Trace.empty()
    for at in (0.0, 1.0, 2.0):
        trace.add(at, advert(250), VIP)
    answers = [(2.5, DR1), (2.505, DR1), (5.0, DR2), (5.005, DR2)]
    trace.answers = [Answer(at, mac) for at, mac in answers]
    trace.add(5.0, advert(238, source="10.0.0.12"), VIP)
    found = outage(trace, "10.0.0.11", 2.4)
    assert (found.begin, found.end) == (2.505, 5.0)
    assert found.seconds == pytest.approx(2.495)
    assert found.age == pytest.approx(0.505)
    assert found.detection == pytest.approx(3.0)


def test_an_outage_that_cannot_be_told_is_refused() -> None:
    trace = Trace.empty()
    with pytest.raises(ValueError, match="fewer than two answers"):
        longest_gap(trace.answers, 0.0)
    trace.answers = [Answer(1.0, DR1), Answer(2.0, DR2)]
    with pytest.raises(ValueError, match="no advert of"):
        outage(trace, "10.0.0.11", 0.0)


def test_a_gap_in_a_window_counts_its_edges() -> None:
    assert gap_in([Answer(1.0, DR1), Answer(2.0, DR1), Answer(9.0, DR1)], 1.5, 6.0) == 4.0
    assert gap_in([], 1.0, 4.0) == 3.0


def test_lateness_is_spacing_beyond_the_interval_and_never_negative() -> None:
    assert lateness([0.0, 10.0, 22.0, 30.0, 45.0], 10.0) == [0.0, 2.0, 0.0, 5.0]


def test_a_renewal_is_no_takeover() -> None:
    assert additions([True, True, False, True, True]) == 2
    assert additions([False, False]) == 0


def test_the_timers_of_the_profiles() -> None:
    """RFC 9568 section 6.1; priority 238 on the successor."""
    assert OURS.down == KEEPALIVED.down == pytest.approx(0.30703, abs=1e-5)
    assert OURS_FAST.down == pytest.approx(0.24563, abs=1e-5)
    assert OURS_FAST.interval == TUNED.interval == 0.01
    assert TUNED.down == pytest.approx(0.24)


def test_keepalived_is_configured_as_its_profile_says() -> None:
    plain, tuned = configuration(KEEPALIVED, 250), configuration(TUNED_REALTIME, 238)
    assert "priority 250" in plain
    assert "advert_int 0.1\n" in plain
    assert "down_timer_adverts" not in plain
    assert "rt_priority" not in plain
    assert all(words in tuned for words in ("advert_int 0.01\n", "down_timer_adverts 24", "vrrp_rt_priority 10"))


def test_every_malformed_packet_is_refused_for_five_reasons_at_least() -> None:
    reasons = set()
    for frame in malformed_packets():
        assert checksum(frame[14:34]) == 0
        outer = packet.parse_ipv4(frame[14:])
        assert not isinstance(outer, packet.Dropped)
        found = packet.decode(
            outer.payload,
            source=outer.source,
            destination=outer.destination,
            hop_limit=outer.ttl,
            virtual_router_ids=frozenset({51}),
        )
        assert isinstance(found, packet.Dropped)
        reasons.add(found.reason)
    assert len(reasons) >= 5
