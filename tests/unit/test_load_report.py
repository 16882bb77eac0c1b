"""What the load tool concludes: a gap overlooked here would make every outage look short."""

import json

import pytest

from tests.load.http import BadAnswer, parse_answer, parse_head
from tests.load.report import (
    Attempt,
    Gap,
    Held,
    Report,
    distribution,
    failures,
    longest_gap,
    survivors,
    translated,
)

pytestmark = pytest.mark.unit


def attempt(start: float, failure: str = "", server: str = "a", client: str = "10.0.0.9:1") -> Attempt:
    return Attempt(
        start, 0.5 if failure == "timeout" else 0.25, failure, "" if failure else server, client, "10.0.0.9:1"
    )


def held(number: int, server: str, failure: str = "", slowest: float = 0.1) -> Held:
    return Held(number, server, "10.0.0.9:1", "10.0.0.9:1", 0.0, 3, 9.0, slowest, failure, 5.0 if failure else 0.0)


def test_the_gap_is_counted_from_answer_to_answer() -> None:
    attempts = [attempt(0.0), attempt(1.0), attempt(2.0, "timeout"), attempt(4.0), attempt(5.0)]
    assert longest_gap(attempts, 0.0, 5.25) == Gap(1.25, 3.0)


def test_a_service_that_never_answers_again_has_a_gap_to_the_end_of_the_window() -> None:
    assert longest_gap([attempt(0.0), attempt(1.0, "timeout")], 0.0, 10.0).seconds == 9.75
    assert longest_gap([], 2.0, 10.0) == Gap(2.0, 8.0)


def test_answers_outside_the_window_do_not_shorten_the_gap() -> None:
    assert longest_gap([attempt(0.0), attempt(8.0)], 1.0, 7.0).seconds == 6.0


def test_failures_are_counted_with_their_reasons_and_the_last_one() -> None:
    attempts = [attempt(0.0, "reset"), attempt(3.0, "timeout"), attempt(2.0, "timeout"), attempt(4.0)]
    found = failures(attempts, 1.0, 9.0)
    assert (found.count, found.of, found.last, found.reasons) == (2, 3, 3.0, {"timeout": 2})
    assert failures([attempt(0.0)], 0.0, 1.0).last is None


def test_the_distribution_counts_answers_only() -> None:
    assert distribution([attempt(0.0, server="b"), attempt(1.0, "reset"), attempt(2.0, server="b")]) == {"b": 2}


def test_survivors_are_told_apart_by_server() -> None:
    found = survivors([held(0, "a", slowest=0.7), held(1, "a", "reset", slowest=9.0), held(2, "b", "timeout")])
    assert (found["a"].alive, found["a"].of, found["a"].slowest, found["a"].reasons) == (1, 2, 0.7, {"reset": 1})
    assert (found["b"].alive, found["b"].of, found["b"].slowest) == (0, 1, 0.0)


def test_a_translated_client_address_is_noticed() -> None:
    seen = (attempt(0.0), attempt(1.0, client="10.244.1.1:1"))
    assert translated(Report("t", 0.0, 1.0, seen, (held(0, "a"),))) == 1


def test_a_report_survives_json() -> None:
    report = Report("t", 0.0, 1.0, (attempt(0.0), attempt(1.0, "reset")), (held(0, "a"), held(1, "", "timeout")))
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_heads_with_a_length_chunks_or_neither() -> None:
    assert parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n").length == 12
    assert parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n").chunked
    assert parse_head(b"HTTP/1.0 200 OK\r\n\r\n").closes
    assert parse_head(b"HTTP/1.1 503 No\r\nConnection: close\r\n\r\n").status == 503


@pytest.mark.parametrize(
    "head", [b"", b"SSH-2.0 x y\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"]
)
def test_what_is_not_http_is_refused(head: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_head(head)


def test_an_answer_names_its_server_its_client_and_the_request() -> None:
    answer = parse_answer(b"Hostname: web-1\nIP: ::1\nRemoteAddr: 10.0.0.9:1234\nGET /x?marker=1 HTTP/1.1\nHost: v\n")
    assert (answer.server, answer.client, answer.request_line) == ("web-1", "10.0.0.9:1234", "GET /x?marker=1 HTTP/1.1")
    with pytest.raises(BadAnswer, match="RemoteAddr"):
        parse_answer(b"Hostname: web-1\nGET / HTTP/1.1\n")
