"""The process of health checks and the agent's end of it."""

import asyncio
import os
import select
import signal
import socket
import time
from dataclasses import replace

import pytest

from lvsagent.checks.messages import LATE_BUCKETS_MS, Target
from lvsapi.health import CheckType, HealthCheck
from tests.checking import PATIENCE, backend, checking, free_port, hang, listening, says, target, tcp

pytestmark = pytest.mark.contract


def test_a_backend_that_listens_is_up_and_one_that_does_not_is_down_with_the_reason() -> None:
    async def scenario() -> None:
        with listening() as server, listening("::1") as other:
            refusing = free_port()
            targets = (
                target(tcp(), server.getsockname()[1]),
                target(tcp(), other.getsockname()[1], name="six", address="::1"),
                target(tcp(), refusing, name="down", up=True),
            )
            async with checking(*targets) as (_, heard):
                await heard.wait(lambda verdict: verdict.up and verdict.known)
                await heard.wait(lambda verdict: verdict.up and verdict.known, "six")
                down = await heard.wait(lambda verdict: verdict.known, "down")
                assert not down.up
                assert down.reason == f"TCP 127.0.0.1:{refusing}: connection refused"

    asyncio.run(scenario())


def test_a_backend_that_dies_is_down_within_the_interval_and_back_when_it_returns() -> None:
    async def scenario() -> None:
        with listening() as server:
            port = server.getsockname()[1]
            async with checking(target(tcp(interval_ms=500), port)) as (_, heard):
                await heard.wait(lambda verdict: verdict.up)
                died = time.monotonic()
                server.close()
                await heard.wait(lambda verdict: not verdict.up)
                at, _ = heard.verdicts[-1]
                assert at - died < 0.5 + 1.0  # the machine may be busy; the benchmark measures it
                with listening(port=port):
                    await heard.wait(lambda verdict: verdict.up)

    asyncio.run(scenario())


def test_the_program_behind_the_port_is_not_woken() -> None:
    async def scenario() -> None:
        with listening() as server:
            async with checking(target(tcp(interval_ms=50), server.getsockname()[1])) as (checks, heard):
                await heard.wait(lambda verdict: verdict.up)
                end = time.monotonic() + PATIENCE
                while (
                    not checks.state.statistics or checks.state.statistics.asked["TCP"] < 50
                ) and time.monotonic() < end:
                    await asyncio.sleep(0.1)
                assert checks.state.statistics
                asked = checks.state.statistics.asked["TCP"]
                readable, _, _ = select.select([server], [], [], 0)
                accepted = 0
                server.setblocking(False)
                try:
                    while readable:
                        server.accept()[0].close()
                        accepted += 1
                except BlockingIOError:
                    pass
                assert accepted <= asked // 10, "the handshake is completed: TCP_QUICKACK has no effect"

    asyncio.run(scenario())


def test_a_backend_that_does_not_answer_is_down_after_the_timeout() -> None:
    async def scenario() -> None:
        with listening(backlog=0) as server, socket.socket() as one, socket.socket() as two:
            one.connect(server.getsockname())  # the queue is full now: the kernel drops what comes
            two.setblocking(False)
            two.connect_ex(server.getsockname())
            async with checking(target(tcp(timeout_ms=300), server.getsockname()[1])) as (_, heard):
                down = await heard.wait(lambda verdict: verdict.known)
                assert "no complete answer within 300 ms" in down.reason

    asyncio.run(scenario())


def test_backends_that_hang_drip_or_never_end_do_not_disturb_the_others() -> None:
    async def scenario() -> None:
        body = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 65536
        kinds = (CheckType.HTTP, CheckType.HTTPS, CheckType.SMTP, CheckType.GRPC, CheckType.AGENT)
        with (
            listening() as healthy,
            backend(hang) as hanging,
            backend(says(body, for_ever=True, first=True)) as endless,
            backend(says(b"HTTP/1.1 200 OK\r\nX: ", b"y", every=0.01, for_ever=True, first=True)) as dripping,
        ):
            ill = [
                target(HealthCheck(type=kind, interval_ms=300, timeout_ms=5000), hanging, name=f"{kind} {number}")
                for kind in kinds
                for number in range(10)
            ]
            web = HealthCheck(type=CheckType.HTTP, interval_ms=300, timeout_ms=5000, body_regex="y$")
            ill += [target(web, endless, name="endless"), target(web, dripping, name="dripping")]
            sleeping = HealthCheck(type=CheckType.EXEC, interval_ms=300, timeout_ms=5000, command=("/bin/sleep", "60"))
            ill += [target(sleeping, 7, name=f"sleeping {number}") for number in range(20)]
            good = target(tcp(interval_ms=100), healthy.getsockname()[1])
            async with checking(*ill, good, allow_exec=True) as (checks, heard):
                await heard.wait(lambda verdict: verdict.up)
                await heard.wait(lambda verdict: "no complete answer" in verdict.reason, "HTTPS 9")
                statistics = checks.state.statistics
                assert statistics
                late = sum(statistics.late[LATE_BUCKETS_MS.index(250) + 1 :])
                # Loosely: they may run where a processor is idle only (`tests/run.py`). Disturbed, nearly all are late.
                assert late <= sum(statistics.late) // 2, statistics
                last = heard.last()
                assert last
                assert last.up
                died = time.monotonic()
                healthy.close()
                await heard.wait(lambda verdict: not verdict.up)
                assert time.monotonic() - died < 2.0

    asyncio.run(scenario())


def test_a_process_that_dies_is_started_again_and_the_verdicts_stay_meanwhile() -> None:
    async def scenario() -> None:
        with listening() as server:
            async with checking(target(tcp(), server.getsockname()[1])) as (checks, heard):
                await heard.wait(lambda verdict: verdict.up)
                before = checks.pid
                assert before
                os.kill(before, signal.SIGKILL)
                end = time.monotonic() + PATIENCE
                while checks.pid in (before, None) and time.monotonic() < end:
                    await asyncio.sleep(0.01)
                assert checks.state.running
                assert checks.state.restarts == 1
                server.close()
                await heard.wait(lambda verdict: not verdict.up)
                assert all(verdict.up and verdict.known for _, verdict in heard.verdicts[1:-1])

    asyncio.run(scenario())


def test_a_new_wish_is_asked_at_once_and_what_is_gone_is_not_heard_of() -> None:
    async def scenario() -> None:
        with listening() as server:
            first = target(tcp(), server.getsockname()[1])
            second = replace(first, name="b")
            async with checking(first) as (checks, heard):
                await heard.wait(lambda verdict: verdict.up)
                checks.want((second,))
                await heard.wait(lambda verdict: verdict.up, "b")
                count = len(heard.verdicts)
                checks.want((second,))
                checks.want(())
                await asyncio.sleep(0.5)
                assert len(heard.verdicts) == count

    asyncio.run(scenario())


def test_it_ends_when_the_agent_is_gone() -> None:
    async def scenario() -> None:
        wish: tuple[Target, ...] = (target(tcp(), free_port()),)
        async with checking(*wish) as (checks, heard):
            await heard.wait(lambda verdict: verdict.known)
            pid = checks.pid
            assert pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(scenario())
