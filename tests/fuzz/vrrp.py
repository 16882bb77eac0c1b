"""Millions of damaged adverts for the decoder: ``python -m tests.fuzz.vrrp --packets 5000000`` (or ``make fuzz``).

Valid packets of every form (VRRPv3, VRRPv2, IPv4, IPv6, passwords, HMAC trailers) are mutated; half of them get a right
checksum afterwards and some a right HMAC, so that what is wrong is found by the rung that looks for it. It fails when
anything raises, when an accepted packet does not encode to the same octets, or when some DropReason was never given.
The seed decides everything.
"""

import argparse
import concurrent.futures
import hashlib
import hmac
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from lvsagent.ipc import AuthenticationMode
from lvsagent.vrrp import auth, ip
from lvsagent.vrrp.packet import (
    GROUP_V4,
    GROUP_V6,
    Advertisement,
    ChecksumForm,
    Dropped,
    DropReason,
    Expectation,
    IPv4Packet,
    Policy,
    decode,
    encode,
    parse_ipv4,
)

CHUNK = 50_000
WALL = 1_750_000_000.5
MONOTONIC = 1000.0
VRID = 51
INTERESTING = bytes((0, 1, 2, 3, 4, 0x10, 0x20, 0x21, 0x31, 0x32, 0x7F, 0x80, 0xFE, 0xFF, VRID, 64, 65))
RING = auth.KeyRing({1: bytes(range(32)), 2: bytes(range(64))})
STRANGER = auth.KeyRing({9: b"k" * 32})
SOURCE_V4 = bytes((10, 0, 0, 11))
SOURCE_V6 = bytes.fromhex("fe80" + "00" * 13 + "0b")
HOSTS = {
    4: [SOURCE_V4, bytes((10, 0, 0, 12)), bytes(4), bytes((224, 0, 0, 18)), b"\xff" * 4],
    6: [SOURCE_V6, bytes.fromhex("fe80" + "00" * 13 + "0c"), bytes(16), GROUP_V6],
}
VIPS_V4 = tuple(bytes((10, 0, 0, last)) for last in range(200, 205))
VIPS_V6 = tuple(bytes.fromhex(prefix + "00" * 12 + "0200") for prefix in ("fe80", "fd00"))


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of valid packet, and what its receiver expects."""

    payload: bytes
    password: bytes | None = None
    mode: AuthenticationMode | None = None
    """Of a verifier; None: the receiver has none."""
    version: int = 3
    six: bool = False

    @property
    def destination(self) -> bytes:
        return GROUP_V6 if self.six else GROUP_V4

    def policy(self) -> Policy:
        verifier = None
        if self.mode is not None:
            verifier = auth.Verifier(RING, auth.Clock(WALL, MONOTONIC), mode=self.mode)
        return Policy(
            {
                VRID: Expectation(
                    version=self.version,
                    interval=100 if self.version == 2 else 0,
                    password=self.password,
                    verifier=verifier,
                    sources=None if self.six else frozenset({SOURCE_V4, bytes((10, 0, 0, 13))}),
                )
            }
        )


def corpus() -> list[Form]:
    """One valid packet of each form."""
    forms = []
    for version, six, count in ((3, False, 1), (3, False, 5), (3, True, 2), (2, False, 1), (2, False, 3)):
        for checksum in [ChecksumForm.MESSAGE] if version == 2 else list(ChecksumForm):
            sent = Advertisement(
                virtual_router_id=VRID,
                priority=100,
                interval=100,
                addresses=(VIPS_V6 if six else VIPS_V4)[:count],
                source=SOURCE_V6 if six else SOURCE_V4,
                version=version,
                checksum=checksum,
            )
            plain = encode(sent)
            trailer = sign(plain, sent.source, RING)
            forms += [
                Form(plain, None, None, version, six),
                Form(plain, None, AuthenticationMode.ENFORCE, version, six),
                Form(plain, None, AuthenticationMode.RECEIVE_ONLY, version, six),
                Form(encode(sent, trailer=trailer), None, AuthenticationMode.ENFORCE, version, six),
                Form(encode(sent, trailer=trailer), None, AuthenticationMode.PERMISSIVE, version, six),
            ]
            if version == 2:
                forms.append(Form(encode(sent, password=b"k8s-lvs-"), b"k8s-lvs-", None, version, six))
    return forms


def sign(message: bytes, source: bytes, ring: auth.KeyRing) -> bytes:
    return auth.Signer(ring, auth.Clock(WALL, MONOTONIC)).sign(message, source, WALL, MONOTONIC)


def flip(data: bytearray, dice: random.Random) -> None:
    if data:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def overwrite(data: bytearray, dice: random.Random) -> None:
    if data:
        data[dice.randrange(len(data))] = dice.choice(INTERESTING)


def header(data: bytearray, dice: random.Random) -> None:
    """Most of what matters is in the first octets."""
    if data:
        data[dice.randrange(min(8, len(data)))] = dice.choice(INTERESTING)


def cut(data: bytearray, dice: random.Random) -> None:
    del data[dice.randrange(len(data) + 1) :]


def grow(data: bytearray, dice: random.Random) -> None:
    data += dice.randbytes(dice.choice((1, 4, 8, 16, 28, 300)))


def repeat(data: bytearray, dice: random.Random) -> None:
    """Some octets twice; the count may still be right afterwards."""
    at = dice.randrange(len(data) + 1)
    data[at:at] = data[at : at + dice.choice((4, 8, 16, 28))]


def swap(data: bytearray, dice: random.Random) -> None:
    """Two addresses change places, if it has two."""
    size = dice.choice((4, 16))
    data[8 : 8 + 2 * size] = data[8 + size : 8 + 2 * size] + data[8 : 8 + size]


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    flip,
    flip,
    overwrite,
    header,
    header,
    header,
    cut,
    grow,
    repeat,
    swap,
]


def mend(data: bytearray, form: Form, source: bytes, dice: random.Random) -> None:
    """A right checksum, and now and then a right HMAC."""
    if len(data) < 8:
        return
    message_end = 8 + data[3] * (16 if form.six else 4) + (8 if data[0] >> 4 == 2 else 0)
    if len(data) == message_end + auth.TRAILER_LENGTH and dice.random() < 0.5:
        data[message_end:] = sign(bytes(data[:message_end]), source, dice.choice((RING, RING, STRANGER)))
        if dice.random() < 0.2:
            flip_at = message_end + dice.choice((0, 2, 3))
            data[flip_at] ^= 1
    data[6:8] = b"\0\0"
    if form.six:
        covered = data + b"\0" * (len(data) % 2)
        data[6:8] = ip.checksum(ip.pseudo_header(source, GROUP_V6, len(data)), covered)
    else:
        covered = data[: min(len(data), message_end)]
        data[6:8] = ip.checksum(covered + b"\0" * (len(covered) % 2)) if any(covered) else b"\xff\xff"


def wrapped(payload: bytes, source: bytes, ttl: int, dice: random.Random) -> bytes:
    """An IPv4 packet around it, sometimes with options, sometimes damaged."""
    options = b"\x94\x04\0\0" * dice.choice((0, 0, 0, 1, 10))
    head = bytearray(bytes((0x45 + len(options) // 4, 0xC0)) + (20 + len(options) + len(payload)).to_bytes(2))
    head += bytes((0, 1, 0, 0, ttl, 112, 0, 0)) + source + GROUP_V4 + options
    if dice.random() < 0.1:
        dice.choice((flip, overwrite, header, cut))(head, dice)
    return bytes(head) + payload


def same(got: Advertisement, payload: bytes, form: Form) -> bool:
    """Does the advert encode to the octets that it was read from? What receivers ignore is sent as 0."""
    plain_length = len(payload) - (auth.TRAILER_LENGTH if got.authenticated else 0)
    again = encode(
        got,
        destination=form.destination,
        password=form.password,
        trailer=payload[plain_length:],
    )
    if again == payload:
        return True
    # Reserved bits, data of authentication type 0, and the two ways to write a checksum of 0.
    masked = bytearray(payload)
    if got.version == 3:
        masked[4] &= 0x0F
    elif form.password is None:
        masked[plain_length - 8 : plain_length] = bytes(8)
    if masked == payload and {payload[6:8], again[6:8]} != {b"\0\0", b"\xff\xff"}:
        return False
    return masked[:6] == again[:6] and masked[8:] == again[8:]


def genuine(payload: bytes, source: bytes) -> bool:
    """Was the advert signed with a key of RING? Written from the draft, not from the code under test."""
    message, trailer = payload[: -auth.TRAILER_LENGTH], payload[-auth.TRAILER_LENGTH :]
    digest = hmac.new(RING.keys[trailer[1]], digestmod=hashlib.sha256)
    digest.update(bytes((4 if len(source) == 4 else 6, message[0] >> 4, message[1], 0)))
    digest.update((source + bytes(12))[:16])
    digest.update(message[:6] + b"\0\0" + message[8:])
    digest.update(trailer[:12] + bytes(16))
    return trailer[12:] == digest.digest()[:16]


class Fuzzer:
    """One stream of damaged packets."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._forms = corpus()
        self._policies = [form.policy() for form in self._forms]
        """Receivers that remember; the others are made anew for each packet."""
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self, packets: int) -> None:
        for _ in range(packets):
            self.one()

    def one(self) -> None:
        dice = self._dice
        number = dice.randrange(len(self._forms))
        form = self._forms[number]
        data = bytearray(form.payload)
        for _ in range(dice.choice((0, 1, 1, 1, 2, 3))):
            dice.choice(MUTATIONS)(data, dice)
        hosts = HOSTS[6 if form.six else 4]
        source = dice.choice(hosts) if dice.random() < 0.1 else hosts[0]
        if dice.random() < 0.5:
            mend(data, form, source, dice)
        payload = bytes(data)
        hop_limit = 255 if dice.random() < 0.95 else dice.randrange(256)
        policy = self._policies[number] if form.mode is None or dice.random() < 0.2 else form.policy()
        shift = 0.0 if dice.random() < 0.95 else dice.choice((-3600.0, -6.0, -5.0, 5.0, 6.0, 3600.0, 2.0**31))
        try:
            self._feed(form, payload, source, hop_limit, policy, shift)
        except Exception as error:
            self.failures.append(f"{error!r} from {payload.hex()}")

    def _feed(self, form: Form, payload: bytes, source: bytes, hop_limit: int, policy: Policy, shift: float) -> None:
        destination = form.destination
        if not form.six:
            outer = parse_ipv4(wrapped(payload, source, hop_limit, self._dice))
            if isinstance(outer, Dropped):
                self.counts[outer.reason] += 1
                return
            assert isinstance(outer, IPv4Packet)
            payload, source, destination, hop_limit = outer.payload, outer.source, outer.destination, outer.ttl
        got = decode(
            payload,
            source=source,
            destination=destination,
            hop_limit=hop_limit,
            own_addresses=frozenset(HOSTS[6 if form.six else 4][1:2]),
            policy=policy,
            wall=WALL + shift,
            monotonic=MONOTONIC + shift,
        )
        if isinstance(got, Dropped):
            self.counts[got.reason] += 1
        elif not same(got, payload, form):
            self.failures.append(f"not the same octets again: {payload.hex()}")
        elif got.authenticated and not genuine(payload, source):
            self.failures.append(f"accepted without a right HMAC: {payload.hex()}")
        else:
            self.counts["accepted"] += 1


def run(seed: int, packets: int) -> tuple[Counter[str], list[str]]:
    """How often each DropReason was given (and ``accepted``), and what went wrong."""
    fuzzer = Fuzzer(seed)
    fuzzer.run(packets)
    return fuzzer.counts, fuzzer.failures


def missing(counts: Counter[str]) -> list[str]:
    """DropReasons that were never given."""
    return [str(reason) for reason in DropReason if not counts[reason]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.vrrp", description="Damaged adverts for the decoder.")
    parser.add_argument("--packets", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    wanted = parser.parse_args()
    counts: Counter[str] = Counter()
    failures: list[str] = []
    started = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(wanted.processes) as pool:
        sizes = [min(CHUNK, wanted.packets - at) for at in range(0, wanted.packets, CHUNK)]
        for found, bad in pool.map(run, range(wanted.seed, wanted.seed + len(sizes)), sizes):
            counts += found
            failures += bad
    seconds = time.monotonic() - started
    for name in ["accepted", *DropReason]:
        print(f"{name:>15} {counts[name]:>10}")
    print(
        f"{sum(counts.values())} packets in {seconds:.1f} s, {sum(counts.values()) / seconds:.0f}/s, seed {wanted.seed}"
    )
    for failure in failures[:10]:
        print(failure, file=sys.stderr)
    if failures or missing(counts):
        print(f"FAILED: {len(failures)} failures; never given: {missing(counts)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
