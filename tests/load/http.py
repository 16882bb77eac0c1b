"""Just enough HTTP/1.1 for a client that checks every byte of an answer. Pure."""

from dataclasses import dataclass


class BadAnswer(ValueError):
    """An answer that is not what a web server of the demo or the lab would say."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers of an answer."""

    status: int
    length: int | None
    """Content-Length in bytes; None when the body is chunked or ends with the connection."""
    chunked: bool
    closes: bool
    """The server closes the connection after this answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What traefik/whoami (or the lab's web server) says of itself and of the request."""

    server: str
    """Its host name: the name of the pod."""
    client: str
    """``address:port`` of the client as the server sees it."""
    request_line: str
    """The request as the server read it."""


def request(target: str, path: str, *, keep_alive: bool) -> bytes:
    """A GET of ``path`` from ``target`` (the Host header)."""
    connection = "keep-alive" if keep_alive else "close"
    return f"GET {path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: load\r\nConnection: {connection}\r\n\r\n".encode()


def parse_head(head: bytes) -> Head:
    """The head of an answer, its empty line included. Raises BadAnswer."""
    try:
        status_line, *lines = head.decode("ascii").split("\r\n")
        version, status, *_ = status_line.split(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(version)
        headers = {
            name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines if line)
        }
        length = headers.get("content-length")
        return Head(
            status=int(status),
            length=None if length is None else int(length),
            chunked=headers.get("transfer-encoding", "").lower() == "chunked",
            closes=version == "HTTP/1.0" or headers.get("connection", "").lower() == "close",
        )
    except ValueError as error:
        raise BadAnswer(f"not the head of an HTTP answer: {error}: {head[:120]!r}") from error


def parse_answer(body: bytes) -> Answer:
    """The lines ``Hostname:``, ``RemoteAddr:`` and the echoed request of a body. Raises BadAnswer."""
    found: dict[str, str] = {}
    for line in body.decode("utf-8", "replace").splitlines():
        if line.startswith("GET "):
            found.setdefault("request", line)
        else:
            name, _, value = line.partition(": ")
            found.setdefault(name, value)
    try:
        return Answer(server=found["Hostname"], client=found["RemoteAddr"], request_line=found["request"])
    except KeyError as error:
        raise BadAnswer(f"the body has no line {error}: {body[:120]!r}") from error
