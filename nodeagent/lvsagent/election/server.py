"""The unix socket at which the agent asks and listens. Nobody who is slow or wrong can hold up the election."""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from lvsagent import ipc

LONGEST_LINE: Final = 4 << 20
"""Bytes of a wish; some 10,000 routers."""
LARGEST_BACKLOG: Final = 1 << 20
"""Bytes that a client may leave unread before it is dropped."""
MOST_CLIENTS: Final = 16


class Client:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = bytearray()
        self.unsent = bytearray()

    def fileno(self) -> int:
        return self.connection.fileno()


class Server:
    """Accepts clients, cuts what they send into lines, queues what they get. Never blocks, and raises nothing later."""

    def __init__(self, path: Path, log: Callable[..., None]) -> None:
        """Raises OSError. Replaces the socket file of an earlier process; the caller holds the lock of the folder."""
        self._path = path
        self._log = log
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.bind(str(path))
        os.chmod(path, 0o660)
        self._listener.listen(MOST_CLIENTS)
        self._listener.setblocking(False)
        self._clients: list[Client] = []
        self._spare = _spare()
        """A file descriptor to turn a client away with when there is no other left; None: it went to somebody else."""
        self.stuck = False
        """A client waits who can be neither accepted nor turned away: the socket wakes us up for nothing."""

    def fileno(self) -> int:
        return self._listener.fileno()

    @property
    def clients(self) -> tuple[Client, ...]:
        return tuple(self._clients)

    def accept(self) -> Client | None:
        """The next client; None: nobody, or there are too many."""
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            self.stuck = not isinstance(error, BlockingIOError)
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return None
        connection.setblocking(False)
        if len(self._clients) >= MOST_CLIENTS:
            connection.close()
            self._log("too many clients of the election socket; one was turned away")
            return None
        client = Client(connection)
        self._clients.append(client)
        return client

    def _turn_away(self) -> None:
        """Without a free file descriptor: whoever waits at the socket would wake us up for ever."""
        if self._spare is not None:
            os.close(self._spare)
        try:
            self._listener.accept()[0].close()
        except OSError:  # somebody else was faster
            pass
        else:
            self.stuck = False
            self._log("no file descriptor is left for a client of the election socket; it was turned away")
        self._spare = _spare()

    def receive(self, client: Client) -> list[ipc.Configure]:
        """The whole wishes that arrived from the client; it is dropped when it closes or sends something else."""
        if client not in self._clients:
            return []
        try:
            data = client.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.drop(client)
            return []
        client.received += data
        *lines, rest = client.received.split(b"\n")
        client.received = bytearray(rest)
        wishes: list[ipc.Configure] = []
        try:
            for line in lines:
                message = ipc.decode(bytes(line))
                if not isinstance(message, ipc.Configure):
                    raise ipc.IpcError(f"the election takes Configure only, not {type(message).__name__}")
                wishes.append(message)
            if len(rest) > LONGEST_LINE:
                raise ipc.IpcError(f"a line longer than {LONGEST_LINE} bytes")
        except ipc.IpcError as error:
            self._log("a client of the election socket was dropped", error=error)
            self.drop(client)
        return wishes

    def send(self, message: ipc.Message, clients: Iterable[Client] | None = None) -> None:
        """To these clients, or to all."""
        line = ipc.encode(message)
        for client in tuple(self._clients if clients is None else clients):
            client.unsent += line
            self.flush(client)

    def flush(self, client: Client) -> None:
        """Send what the client takes; drop it when it leaves too much."""
        try:
            while client.unsent:
                del client.unsent[: client.connection.send(client.unsent)]
        except BlockingIOError:
            if len(client.unsent) > LARGEST_BACKLOG:
                self._log("a client of the election socket does not read and was dropped")
                self.drop(client)
        except OSError:
            self.drop(client)

    def drop(self, client: Client) -> None:
        """Forget the client."""
        client.connection.close()
        with contextlib.suppress(ValueError):
            self._clients.remove(client)

    def close(self) -> None:
        """Hang up on everybody and remove the socket file."""
        for client in self.clients:
            self.drop(client)
        self._listener.close()
        if self._spare is not None:
            os.close(self._spare)
        with contextlib.suppress(OSError):
            self._path.unlink()


def _spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
