"""gRPC: grpc.health.v1.Health/Check over HTTP/2, by h2. Two messages of two fields need no more."""

import ssl
from typing import Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from lvsagent.checks.answer import WELL, Answer, endpoint, failed
from lvsagent.checks.messages import Target
from lvsagent.checks.stream import Stream, connected
from lvsagent.checks.tls import connected_by_tls, refusal
from lvsapi.health import HealthCheck

PATH: Final = "/grpc.health.v1.Health/Check"
ALPN: Final = "h2"
LONGEST_ANSWER: Final = 65536
"""Bytes of everything that the server says; a right answer has a few hundred."""
CHUNK: Final = 16384
SERVING: Final = 1
STATUSES: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
CODES: Final = {5: "the service is not known there", 12: "there is no health service", 14: "unavailable"}
"""grpc-status that people meet."""


class _Wrong(Exception):
    """The answer is none of gRPC's health service."""


async def check(check: HealthCheck, target: Target) -> Answer:
    """SERVING, for the service of that name or, without one, for the server."""
    try:
        async with connected_by_tls(check, target, ALPN) if check.tls else connected(check, target) as stream:
            status = await _ask(stream, check, check.host or endpoint(check, target))
    except ssl.SSLError as error:
        return failed(check, target, refusal(error))
    except h2.exceptions.ProtocolError as error:
        return failed(check, target, f"the answer is not HTTP/2: {type(error).__name__}")
    except _Wrong as error:
        return failed(check, target, str(error))
    if status == SERVING:
        return WELL
    name = STATUSES[status] if status < len(STATUSES) else str(status)
    return failed(check, target, f"{name}, expected SERVING")


async def _ask(stream: Stream, check: HealthCheck, authority: str) -> int:
    """The status (HealthCheckResponse.ServingStatus)."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    headers = [
        (":method", "POST"),
        (":scheme", "https" if check.tls else "http"),
        (":path", PATH),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "lvs-checks"),
    ]
    connection.send_headers(1, headers)
    connection.send_data(1, request(check.name), end_stream=True)
    await stream.send(connection.data_to_send())
    found: dict[str, str] = {}
    body, size = b"", 0
    while data := await stream.read(CHUNK):
        size += len(data)
        if size > LONGEST_ANSWER or (size == len(data) and data.startswith(b"HTTP/")):
            raise _Wrong("the answer is not HTTP/2 of a health service")
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                found |= {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                raise _Wrong("the server ended the stream")
            elif isinstance(event, h2.events.StreamEnded):
                connection.close_connection()
                await stream.send(connection.data_to_send())
                return _status(found, body)
        await stream.send(connection.data_to_send())
    raise _Wrong("the connection was closed without an answer")


def _status(headers: dict[str, str], body: bytes) -> int:
    if headers.get(":status") != "200":
        raise _Wrong(f"HTTP status {headers.get(':status')}, expected 200")
    code = headers.get("grpc-status", "")
    if code != "0":
        known = CODES.get(int(code)) if code.isdecimal() else None
        raise _Wrong(f"grpc-status {code or 'is missing'}{f': {known}' if known else ''}")
    return response(body)


def request(service: str) -> bytes:
    """A gRPC message with HealthCheckRequest{service = 1}."""
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    return b"\x00" + len(message).to_bytes(4) + message


def response(body: bytes) -> int:
    """HealthCheckResponse{status = 1} of a gRPC message; without the field it is 0."""
    if len(body) < 5 or body[0] != 0 or int.from_bytes(body[1:5]) != len(body) - 5:
        raise _Wrong("the answer is not a message of gRPC")
    message = body[5:]
    if not message:
        return 0
    if len(message) < 2 or message[0] != 0x08 or message[1] > 0x7F:
        raise _Wrong("the answer is not of the health service")
    return message[1]


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
