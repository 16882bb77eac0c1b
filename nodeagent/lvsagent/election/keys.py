"""Keys and passwords of virtual routers, read from a folder that somebody else keeps up to date (a mounted Secret).

``<key>.password``: VRRPv2's password. ``<key>.hmac.<id>``: an HMAC key with that id, 0-255. A key that was read stays
in force until it is replaced, even if its file goes away: a Secret deleted by mistake must not end an election.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from lvsagent import ipc
from lvsagent.vrrp import auth, packet, v2

REFRESH: Final = 2.0
"""Seconds between looks at the folder."""
LARGEST: Final = 4096
"""Octets of a file that is read; no key is so long."""
READABLE_BY_ALL: Final = 0o004


class Keys:
    """What the folder holds, and held."""

    def __init__(self, folder: Path, log: Callable[..., None]) -> None:
        self._folder = folder
        self._log = log
        self._passwords: dict[str, bytes] = {}
        self._rings: dict[str, auth.KeyRing] = {}
        self._files: dict[str, bytes] = {}
        self._looked = -REFRESH
        self._complained: set[tuple[str, str]] = set()

    def refresh(self, now: float) -> bool:
        """Look at the folder when it is time. True: something changed."""
        if now - self._looked < REFRESH:
            return False
        self._looked = now
        files = self._read()
        if files == self._files:
            return False
        self._files = files
        rings: dict[str, dict[int, bytes]] = {}
        for name, content in files.items():
            # the name of a class may have dots too
            key, _, identifier = name.rpartition(".hmac.")
            try:
                if name.endswith(".password"):
                    self._passwords[name.removesuffix(".password")] = v2.parse_password(content)
                elif key and identifier.isdecimal():
                    rings.setdefault(key, {})[int(identifier)] = auth.parse_key(content)
            except ValueError as error:
                self._complain(name, str(error))
        for key, found in rings.items():
            try:
                self._rings[key] = auth.KeyRing(found)
            except ValueError as error:
                self._complain(key, str(error))
        return True

    def password(self, key: str) -> bytes | None:
        """None: there is none that can be used."""
        return self._passwords.get(key)

    def ring(self, key: str) -> auth.KeyRing | None:
        """None: there is none that can be used."""
        return self._rings.get(key)

    def missing(self, config: ipc.RouterConfig) -> str:
        """What the administrator has to put where."""
        password = config.authentication is ipc.Authentication.PASSWORD
        wanted = f"{config.key}.password (1-8 octets)" if password else f"{config.key}.hmac.1 (32-64 octets)"
        return f"authentication {config.authentication}: no usable key in {self._folder}: put it into {wanted}"

    def _read(self) -> dict[str, bytes]:
        """What there is. What cannot be read now counts as it was: with a part of its keys a node would sign with an
        old one, and refuse what others sign."""
        files: dict[str, bytes] = {}
        try:
            paths = sorted(self._folder.iterdir())
        except OSError as error:  # none yet, a Secret that is being exchanged, no descriptor: the next look is soon
            if not isinstance(error, FileNotFoundError):
                self._complain(str(self._folder), f"cannot be read: {error.strerror}")
            return self._files
        for path in paths:
            try:
                if path.name.startswith(".") or not path.is_file():
                    continue
                if path.stat().st_mode & READABLE_BY_ALL:
                    self._complain(path.name, "everybody on the node can read it: take the permission away")
                with path.open("rb") as opened:
                    files[path.name] = opened.read(LARGEST)
            except OSError as error:
                self._complain(path.name, f"cannot be read: {error.strerror}")
                if path.name in self._files:
                    files[path.name] = self._files[path.name]
        return files

    def _complain(self, subject: str, reason: str) -> None:
        if (subject, reason) not in self._complained:
            self._complained.add((subject, reason))
            self._log("a key cannot be used as it is", file=subject, reason=reason)


class Credentials:
    """How one router proves itself, and what it demands of others."""

    def __init__(self, config: ipc.RouterConfig, keys: Keys, clock: auth.Clock, now: float) -> None:
        self._config = config
        self._window = auth.window_for(config.advertisement_interval_ms / 1000)
        self._clock = clock
        self._signer: auth.Signer | None = None
        self._verifier: auth.Verifier | None = None
        self._password: bytes | None = None
        self.problem = ""
        """Why the router cannot run: its peers would not believe it."""
        self.refresh(keys, now)

    def is_for(self, config: ipc.RouterConfig) -> bool:
        """Nothing that matters here differs."""
        return _essence(self._config) == _essence(config)

    def refresh(self, keys: Keys, now: float) -> None:
        """The folder has changed."""
        config = self._config
        if config.authentication is ipc.Authentication.NONE:
            return
        if config.authentication is ipc.Authentication.PASSWORD:
            self._password = keys.password(config.key)
            self.problem = "" if self._password is not None else keys.missing(config)
            return
        ring = keys.ring(config.key)
        unsigned = config.authentication_mode is ipc.AuthenticationMode.RECEIVE_ONLY
        self.problem = keys.missing(config) if ring is None and not unsigned else ""
        if ring is None:
            return
        if self._verifier is None:
            self._verifier = auth.Verifier(ring, self._clock, mode=config.authentication_mode, window=self._window)
            signer = auth.Signer(ring, self._clock, window=self._window, monotonic=now)
            self._signer = None if unsigned else signer
        else:
            self._verifier.use(ring)
            if self._signer is not None:
                self._signer.use(ring, now)

    def expectation(self, sources: frozenset[bytes] | None) -> packet.Expectation:
        """For the codec. ``sources``: whose adverts are taken; None: everybody's."""
        return packet.Expectation(
            version=self._config.version,
            interval=self._config.advertisement_interval_ms // 10 if self._config.version == v2.VERSION else 0,
            password=self._password,
            verifier=self._verifier,
            sources=sources,
        )

    def encode(self, advert: packet.Advertisement, destination: bytes, now: float) -> bytes:
        """The payload, proved. A new trailer each time: the same advert to several peers is encoded once for each."""
        form = packet.ChecksumForm.MESSAGE if self._config.checksum_without_pseudo_header else None
        trailer = b""
        if self._signer is not None:
            trailer = self._signer.sign(packet.encode(advert), advert.source, time.time(), now)
        return packet.encode(advert, destination=destination, checksum=form, password=self._password, trailer=trailer)


def _essence(config: ipc.RouterConfig) -> tuple[object, ...]:
    return (
        config.version,
        config.advertisement_interval_ms,
        config.authentication,
        config.authentication_mode,
        config.key,
        config.checksum_without_pseudo_header,
    )
