"""What is asked of a host about its way, again and again, and what the answers amount to; in virtual time."""

import pytest

from lvsagent.checks.path_packets import TCP, UDP, Answer, Flow, Heard, datagram, echo, reset, syn
from lvsagent.checks.path_question import (
    AGAIN,
    DOUBT,
    PATIENCE,
    ROUND,
    TRIES,
    Claims,
    Question,
    Result,
    Way,
    answers_for,
    reason,
)

pytestmark = pytest.mark.unit

US, VIP, BACKEND = b"\x0a\0\0\x15", b"\x0a\0\0\xc8", b"\x0a\0\0\x1f"
SECONDS = 2.0
MAC, OTHER = bytes.fromhex("0200000000aa"), bytes.fromhex("0200000000bb")


def question(protocol: int = TCP, **more: object) -> Question:
    flow = Flow(source=US, port=40000, virtual=VIP, virtual_port=80, protocol=protocol)
    return Question(flow=flow, begun=100.0, seconds=SECONDS, number=1000, **more)  # type: ignore[arg-type]


def said(heard: Heard, *, to_echo: bool = False, virtual: bytes = VIP, data: bytes = b"", sequence: int = 0) -> Answer:
    return Answer(
        heard=heard, source=US, port=40000, virtual=virtual, sender=VIP, to_echo=to_echo, data=data, sequence=sequence
    )


def run_out(asked: Question) -> list[list[bytes]]:
    """All that is sent when nobody answers."""
    sent = []
    while asked.result is None:
        now = asked.deadline
        assert now <= 100.0 + SECONDS
        sent.append(asked.step(now))
    assert asked.step(200.0) == []
    return [packets for packets in sent if packets]


def test_a_connection_is_accepted_and_ended_and_its_late_second_answer_too() -> None:
    asked = question()
    assert asked.step(100.0) == [syn(asked.flow, 1000)]
    assert asked.step(100.1) == [], "not so soon"
    assert not asked.repeated
    assert asked.heard(said(Heard.ACCEPTED, sequence=1001), 100.1) == [reset(asked.flow, 1001)]
    assert asked.result is Result.ACCEPTS
    assert asked.heard(said(Heard.ACCEPTED, sequence=1001), 100.2) == [reset(asked.flow, 1001)]
    assert asked.heard(said(Heard.REFUSED), 100.2) == []
    assert asked.result is Result.ACCEPTS


def test_it_is_asked_three_times_and_the_address_alone_the_second_time_on() -> None:
    asked = question()
    first, *others = run_out(asked)
    assert first == [syn(asked.flow, 1000)]
    assert others == [[syn(asked.flow, 1000), echo(asked.flow)]] * (len(TRIES) - 1)
    assert asked.repeated
    assert asked.result is Result.SILENT


def test_one_that_has_the_address_and_says_nothing_at_the_port_is_mute() -> None:
    asked = question()
    asked.step(100.0)
    assert asked.heard(said(Heard.ECHOED), 100.5) == []
    run_out(asked)
    assert asked.result is Result.MUTE


def test_a_reset_is_a_refusal() -> None:
    asked = question()
    asked.step(100.0)
    asked.heard(said(Heard.REFUSED), 100.1)
    assert asked.result is Result.REFUSES


@pytest.mark.parametrize(("heard", "result"), [(Heard.EXCEEDED, Result.ROUTES), (Heard.UNREACHABLE, Result.REJECTS)])
def test_what_a_host_with_a_table_of_its_own_would_say_too_is_asked_again_by_ping(heard: Heard, result: Result) -> None:
    for echoed, expected in ((True, Result.HANDS_ON), (False, result)):
        asked = question()
        asked.step(100.0)
        assert asked.heard(said(heard), 100.1) == [echo(asked.flow)]
        assert asked.heard(said(heard), 100.1) == [], "once"
        assert asked.result is None
        if echoed:
            asked.heard(said(Heard.ECHOED), 100.2)
        else:
            assert asked.deadline == pytest.approx(100.1 + PATIENCE)
            asked.step(asked.deadline)
        assert asked.result is expected


def test_a_ping_that_was_answered_before_decides_at_once() -> None:
    asked = question()
    asked.step(100.0)
    asked.heard(said(Heard.ECHOED), 100.1)
    asked.heard(said(Heard.EXCEEDED), 100.2)
    assert asked.result is Result.HANDS_ON


def test_a_ping_that_would_have_been_routed_on_shows_that_the_address_is_missing() -> None:
    asked = question()
    asked.step(100.0)
    assert asked.heard(said(Heard.UNREACHABLE, to_echo=True), 100.1) == []
    assert asked.result is None, "pings may be forbidden"
    asked.heard(said(Heard.EXCEEDED, to_echo=True), 100.1)
    assert asked.result is Result.ROUTES


def test_a_node_is_pinged_only() -> None:
    asked = question(ping_only=True)
    assert asked.step(100.0) == [echo(asked.flow)]
    for other in (Heard.ACCEPTED, Heard.REFUSED, Heard.ANSWERED):
        assert asked.heard(said(other), 100.0) == []
    assert asked.result is None
    asked.heard(said(Heard.ECHOED), 100.1)
    assert asked.result is Result.ACCEPTS
    silent = question(ping_only=True)
    assert run_out(silent) == [[echo(silent.flow)]] * len(TRIES)
    assert silent.result is Result.SILENT


@pytest.mark.parametrize(
    ("expect", "answer", "result"),
    [
        (b"", said(Heard.ANSWERED, data=b"whatever"), Result.ACCEPTS),
        (b"well", said(Heard.ANSWERED, data=b"well done"), Result.ACCEPTS),
        (b"well", said(Heard.ANSWERED, data=b"ill"), Result.WRONG),
        (b"", said(Heard.ANSWERED, virtual=BACKEND), Result.ASTRAY),
        (b"", said(Heard.REFUSED), Result.REFUSES),
    ],
)
def test_a_datagram_and_its_answers(expect: bytes, answer: Answer, result: Result) -> None:
    asked = question(UDP, payload=b"hello", expect=expect)
    assert asked.step(100.0) == [datagram(asked.flow, b"hello"), echo(asked.flow)]
    asked.heard(answer, 100.1)
    assert asked.result is result


def test_a_datagram_that_needs_no_answer_is_taken_when_the_address_is_there_and_nobody_refuses() -> None:
    asked = question(UDP, payload=b"hello")
    asked.step(100.0)
    asked.heard(said(Heard.ECHOED), 100.1)
    assert asked.deadline == pytest.approx(100.1 + PATIENCE), "a refusal would have come by then"
    asked.step(asked.deadline)
    assert asked.result is Result.ACCEPTS
    refused = question(UDP, payload=b"hello")
    refused.step(100.0)
    refused.heard(said(Heard.ECHOED), 100.1)
    refused.heard(said(Heard.REFUSED), 100.2)
    assert refused.result is Result.REFUSES


def test_a_datagram_whose_answer_is_expected_is_not_taken_for_a_ping() -> None:
    asked = question(UDP, payload=b"hello", expect=b"well")
    asked.step(100.0)
    asked.heard(said(Heard.ECHOED), 100.1)
    run_out(asked)
    assert asked.result is Result.MUTE
    silent = question(UDP, payload=b"hello")
    run_out(silent)
    assert silent.result is Result.SILENT


def test_udp_without_a_payload_and_other_protocols_are_pinged() -> None:
    for protocol in (UDP, 132):
        asked = question(protocol)
        assert asked.step(100.0) == [echo(asked.flow)]
        asked.heard(said(Heard.ECHOED), 100.1)
        assert asked.result is Result.ACCEPTS


# -- who answers ARP -------------------------------------------------------------------------------------------------


def test_who_claims_an_address_is_asked_seldom_and_what_is_said_unasked_counts() -> None:
    claims = Claims()
    assert claims.due(10.0), "the first time"
    assert claims.begin(10.0) == pytest.approx(10.0 + ROUND)
    assert not claims.due(11.0)
    assert claims.due(10.0 + AGAIN)
    claims.note(OTHER, 11.0)
    assert not claims.by(MAC), "another's claim is another's"
    assert not claims.wrong(MAC)
    claims.note(MAC, 11.5)
    assert claims.by(MAC), "also what was said unasked"
    assert claims.wrong(MAC)


def found(at: float) -> Claims:
    """MAC claimed it then, and was found."""
    claims = Claims()
    claims.begin(at)
    claims.note(MAC, at)
    assert claims.by(MAC)
    return claims


def test_one_that_was_found_and_answers_again_is_still_wrong() -> None:
    claims = found(10.0)
    assert claims.still(MAC, asked=11.0, since=10.1, now=11.0) is False, "0.9 s of silence are known already"
    claims = found(10.0)
    claims.note(MAC, 10.9)
    assert claims.still(MAC, asked=11.0, since=10.1, now=11.0) is None
    claims.note(MAC, 11.1)
    assert claims.still(MAC, asked=11.0, since=10.1, now=11.1) is True
    assert claims.wrong(MAC)


def test_one_that_was_found_is_cleared_by_a_silence_in_which_it_was_asked() -> None:
    claims = found(10.0)
    assert claims.still(MAC, asked=13.0, since=13.0, now=13.0) is None, "nobody asked it in between"
    assert claims.still(MAC, asked=13.0, since=13.0, now=13.0 + DOUBT - 0.1) is None
    assert claims.wrong(MAC)
    assert claims.still(MAC, asked=13.0, since=13.0, now=13.1 + DOUBT) is False
    assert not claims.wrong(MAC)
    assert not claims.by(MAC), "what it said before is forgotten"
    assert claims.still(MAC, asked=14.0, since=14.0, now=14.0) is False, "another check has cleared it"


def test_a_round_for_others_does_not_clear_one_that_was_found() -> None:
    claims = found(10.0)
    claims.note(MAC, 15.1)
    claims.begin(15.2)
    assert claims.wrong(MAC)
    assert claims.still(MAC, asked=15.3, since=10.0, now=15.3) is None


# -- words -----------------------------------------------------------------------------------------------------------

WAY = Way(virtual="10.0.0.200", port=80, protocol="TCP", interface="eth0", mac="02:00:00:00:00:aa")


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (Result.REFUSES, ("it refuses 10.0.0.200:80/TCP", "02:00:00:00:00:aa on eth0", "listen on port 80")),
        (Result.ROUTES, ("routes it on", "lvs-node-init --real-server --vip 10.0.0.200")),
        (Result.REJECTS, ("rejects", "firewall")),
        (Result.MUTE, ("has 10.0.0.200", "firewall")),
        (Result.SILENT, ("does not accept 10.0.0.200", "lvs-node-init --real-server --vip 10.0.0.200")),
        (Result.WRONG, ("expect",)),
        (Result.ASTRAY, ("another address", "bind the server to 10.0.0.200")),
    ],
)
def test_every_failure_says_what_it_is_and_what_to_do(result: Result, words: tuple[str, ...]) -> None:
    text = reason(WAY, result)
    for word in words:
        assert word in text


def test_nothing_is_said_of_what_is_well() -> None:
    assert reason(WAY, Result.ACCEPTS) == reason(WAY, Result.HANDS_ON) == ""


def test_nodes_and_tunnels_have_remedies_of_their_own() -> None:
    node = Way(virtual="fd00::200", port=80, protocol="TCP", node="n2")
    assert "node n2 does not accept fd00::200" in reason(node, Result.SILENT)
    assert "[fd00::200]:80/TCP" in reason(node, Result.SILENT)
    assert "the agent there puts the address on lo" in reason(node, Result.ROUTES)
    tunnel = Way(virtual="10.0.0.200", port=80, protocol="TCP", method="gue tunnel")
    assert "take gue tunnel apart with rp_filter=0" in reason(tunnel, Result.SILENT)
    assert "nothing takes gue tunnel" in reason(tunnel, Result.REJECTS)
    assert Way(virtual="10.0.0.200", port=0, protocol="TCP").place == "10.0.0.200"


def test_who_answers_arp_is_named_with_the_settings_that_are_missing() -> None:
    text = answers_for(WAY)
    assert text.startswith(
        "it (02:00:00:00:00:aa) answers ARP for 10.0.0.200 on eth0: set net.ipv4.conf.all.arp_ignore=1"
    )
    assert "arp_announce=2 there (lvs-node-init does it)" in text
    six = Way(virtual="fd00::200", port=80, protocol="TCP", interface="eth0", mac="02:00:00:00:00:aa")
    assert "answers neighbour solicitations for fd00::200" in answers_for(six)
