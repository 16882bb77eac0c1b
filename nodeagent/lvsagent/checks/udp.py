"""UDP and DNS: a connected socket, so that the kernel tells when ICMP refuses."""

import asyncio
import socket
from typing import Final

import dns.exception
import dns.message
import dns.rcode

from lvsagent.checks.answer import WELL, Answer, failed, port_of
from lvsagent.checks.messages import Target
from lvsagent.checks.stream import opened
from lvsapi.health import HealthCheck

QUIET_SECONDS: Final = 1.0
"""Silence that counts as well where no answer is expected; nine tenths of the timeout when that is less."""
LONGEST_DATAGRAM: Final = 65535


async def check(check: HealthCheck, target: Target) -> Answer:
    """The payload's answer begins as expected; where nothing is expected, nobody refuses it."""
    async with opened(target, socket.SOCK_DGRAM) as endpoint:
        endpoint.connect((str(target.address), port_of(check, target)))
        endpoint.send(check.payload)
        answer = asyncio.get_running_loop().sock_recv(endpoint, LONGEST_DATAGRAM)
        if check.expect:
            found = await answer
            if found.startswith(check.expect):
                return WELL
            shown = found[: max(16, len(check.expect))].hex(" ")
            return failed(check, target, f"answered {shown or 'nothing'}, expected {check.expect.hex(' ')}")
        try:
            async with asyncio.timeout(min(QUIET_SECONDS, 0.9 * check.timeout_ms / 1000)):
                await answer
        except TimeoutError:
            pass
        return WELL


async def check_dns(check: HealthCheck, target: Target) -> Answer:
    """A query is answered with NOERROR, or NXDOMAIN where that is allowed. A truncated answer is one."""
    try:
        query = dns.message.make_query(check.name or ".", check.record_type)
    except dns.exception.DNSException as error:
        return failed(check, target, f"{check.name!r} {check.record_type!r} cannot be asked for: {error}")
    async with opened(target, socket.SOCK_DGRAM) as endpoint:
        endpoint.connect((str(target.address), port_of(check, target)))
        endpoint.send(query.to_wire())
        while True:
            wire = await asyncio.get_running_loop().sock_recv(endpoint, LONGEST_DATAGRAM)
            try:
                answer = dns.message.from_wire(wire, ignore_trailing=True)
            except (dns.exception.DNSException, ValueError):
                return failed(check, target, "the answer is not DNS")
            if query.is_response(answer):  # otherwise of somebody else: the right one may still come
                break
    code = answer.rcode()
    if code == dns.rcode.NOERROR or (code == dns.rcode.NXDOMAIN and check.allow_nxdomain):
        return WELL
    expected = "NOERROR or NXDOMAIN" if check.allow_nxdomain else "NOERROR"
    asked = f"{check.name or '.'} {check.record_type}"
    return failed(check, target, f"{asked}: {dns.rcode.to_text(code)}, expected {expected}")
