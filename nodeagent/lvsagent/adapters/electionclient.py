"""The agent's end of the election socket: connects, connects again, sends the whole wish each time, yields messages."""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from lvsagent import ipc

RETRY_SECONDS = 0.2
LONGEST_LINE = 4 << 20

_CREDENTIALS = struct.Struct("=iII")
"""struct ucred: pid, uid, gid."""

_log = logging.getLogger(__name__)


class ElectionClient:
    """``run`` until cancelled. Callbacks run on the loop."""

    def __init__(self, path: Path, heard: Callable[[ipc.Message], None], connection: Callable[[bool], None]) -> None:
        self.connected = False
        self._path = path
        self._heard = heard
        self._connection = connection
        self._wish: ipc.Configure | None = None
        self._writer: asyncio.StreamWriter | None = None

    def configure(self, wish: ipc.Configure) -> None:
        """Send the wish now, and again whenever the election comes back."""
        self._wish = wish
        self._send()

    def peer(self) -> int | None:
        """Pid of the election at the other end; None while there is none."""
        connection = self._writer.get_extra_info("socket") if self._writer else None
        if connection is None:
            return None
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(credentials)[0])

    async def run(self) -> None:
        """Connect, listen, and again."""
        while True:
            with contextlib.suppress(OSError, EOFError):
                await self._listen()
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._path), limit=LONGEST_LINE)
        self._writer = writer
        try:
            self._set(True)
            self._send()
            while line := await reader.readline():
                try:
                    message = ipc.decode(line)
                except ipc.IpcError as error:
                    _log.warning(
                        "the election said something unknown; are both of one version?", extra={"error": error}
                    )
                    continue
                self._heard(message)
        except ValueError as error:
            _log.warning("the election sent a line that never ends", extra={"error": error})
        finally:
            self._writer = None
            writer.close()
            self._set(False)

    def _send(self) -> None:
        if self._writer and self._wish:
            self._writer.write(ipc.encode(self._wish))

    def _set(self, connected: bool) -> None:
        self.connected = connected
        self._connection(connected)
