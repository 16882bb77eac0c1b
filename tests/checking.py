"""Backends to be asked, and the agent's end of ``lvs-checks`` that asks them, for tests."""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from lvsagent.checks.answer import Answer
from lvsagent.checks.asker import ask
from lvsagent.checks.messages import Target, Verdict
from lvsagent.checks.table import checkers
from lvsagent.runtime.checks import Checks
from lvsapi.health import CheckType, HealthCheck
from lvsapi.model import Protocol

PATIENCE = 30.0
"""Seconds; a busy machine takes long."""
INTERVAL_MS = 200


def target(check: HealthCheck, port: int, *, name: str = "a", address: str = "127.0.0.1", up: bool = False) -> Target:
    """One backend with one check."""
    return Target(
        name=name, address=ipaddress.ip_address(address), port=port, protocol=Protocol.TCP, checks=(check,), up=up
    )


def tcp(interval_ms: int = INTERVAL_MS, timeout_ms: int = 2000) -> HealthCheck:
    return HealthCheck(type=CheckType.TCP, interval_ms=interval_ms, timeout_ms=timeout_ms)


@dataclass
class Heard:
    """Verdicts as they came, with the time (monotonic seconds)."""

    verdicts: list[tuple[float, Verdict]] = field(default_factory=list)

    def __call__(self, verdict: Verdict) -> None:
        self.verdicts.append((time.monotonic(), verdict))

    def last(self, name: str = "a") -> Verdict | None:
        return next((verdict for _, verdict in reversed(self.verdicts) if verdict.name == name), None)

    async def wait(self, what: Callable[[Verdict], bool], name: str = "a") -> Verdict:
        """Until the last verdict of the name is so. Raises AssertionError with what there is."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            last = self.last(name)
            if last is not None and what(last):
                return last
            await asyncio.sleep(0.01)
        raise AssertionError(f"{name}: {self.last(name)}")


@contextlib.asynccontextmanager
async def checking(*targets: Target, allow_exec: bool = False) -> AsyncIterator[tuple[Checks, Heard]]:
    """The real process, asking these."""
    heard = Heard()
    checks = Checks(verdict=heard, allow_exec=allow_exec, log_format="text")
    running = asyncio.create_task(checks.run())
    checks.want(targets)
    try:
        yield checks, heard
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await checks.stop()


@contextlib.contextmanager
def listening(address: str = "127.0.0.1", backlog: int = 128, port: int = 0) -> Iterator[socket.socket]:
    """A socket that listens and accepts nothing by itself."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, port))
        opened.listen(backlog)
        yield opened


def free_port() -> int:
    """Nobody listens there."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def ask_once(check: HealthCheck, port: int, address: str = "127.0.0.1", *, allow_exec: bool = True) -> Answer:
    """One question by the checker of the type, as the process asks it."""
    about = target(check, port, address=address)

    async def question() -> Answer:
        answer = await ask(checkers(allow_exec)[check.type], check, about)
        for _ in range(5):  # what was cancelled is closed in the next turns of the loop
            await asyncio.sleep(0)
        return answer

    return asyncio.run(question())


Behaviour = Callable[[socket.socket], None]
"""Of a backend with one client: what it does with the connection, which is closed afterwards."""


def hang(client: socket.socket) -> None:
    """Says nothing until the client goes."""
    while client.recv(65536):
        pass


def says(*parts: bytes, every: float = 0.0, for_ever: bool = False, first: bool = False) -> Behaviour:
    """Sends the parts, so many seconds apart, the last one again and again when it is for ever. Listens ``first``."""

    def behave(client: socket.socket) -> None:
        client.settimeout(PATIENCE)
        if first:
            client.recv(65536)
        for part in parts:
            client.sendall(part)
            time.sleep(every)
        while for_ever:
            client.sendall(parts[-1])
            time.sleep(every)
        with contextlib.suppress(TimeoutError):
            client.settimeout(0.2)
            hang(client)

    return behave


@contextlib.contextmanager
def backend(behave: Behaviour, *, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> Iterator[int]:
    """Its port. Serves each client in a thread, as ``behave`` says."""
    with listening(address) as server:

        def serve(client: socket.socket) -> None:
            with contextlib.suppress(OSError), client:
                if tls is None:
                    behave(client)
                else:
                    with tls.wrap_socket(client, server_side=True) as wrapped:
                        behave(wrapped)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    threading.Thread(target=serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
