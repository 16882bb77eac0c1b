"""Runs commands on a node for the rig: ``node_agent.py ADDRESS``, inside the guest, standard library only.

It listens in a network namespace of its own, on the management card, so that the node has one card like a real one
and commands arrive while its LAN is cut. Commands run in the node's own namespaces. One connection is one command: in
comes one JSON line ``{"argv": [...], "stdin": "text"}``; out come frames (kind, length, bytes): 1 standard output,
2 standard error, 0 the exit status in decimal and the end. A closed connection kills the command.
"""

import ctypes
import json
import mmap
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

CARD, PORT = "vec1", 10
DISK = "/dev/ubda"
CLONE_NEWNET = 0x40000000
FRAME = struct.Struct("!BI")
libc = ctypes.CDLL(None, use_errno=True)


def serve(connection: socket.socket, home: int) -> None:
    """One command."""
    with connection:
        request = json.loads(connection.makefile("rb").readline())
        libc.setns(home, CLONE_NEWNET)  # of this thread only
        try:
            child = subprocess.Popen(
                request["argv"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            send(connection, 2, f"{request['argv'][0]}: {error.strerror}\n".encode())
            send(connection, 0, b"127")
            return
        try:
            threading.Thread(target=feed, args=(child, (request.get("stdin") or "").encode()), daemon=True).start()
            pump(connection, child)
        except OSError:
            pass
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def feed(child: "subprocess.Popen[bytes]", text: bytes) -> None:
    try:
        child.stdin.write(text)  # type: ignore[union-attr]
        child.stdin.close()  # type: ignore[union-attr]
    except OSError:
        pass


def pump(connection: socket.socket, child: "subprocess.Popen[bytes]") -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ, 1)  # type: ignore[arg-type]
        selector.register(child.stderr, selectors.EVENT_READ, 2)  # type: ignore[arg-type]
        selector.register(connection, selectors.EVENT_READ, 0)
        while len(selector.get_map()) > 1:
            for key, _ in selector.select():
                if key.data == 0:
                    if not connection.recv(65536):
                        raise ConnectionError("the caller is gone")
                elif data := os.read(key.fd, 65536):
                    send(connection, key.data, data)
                else:
                    selector.unregister(key.fileobj)
    status = child.wait()
    send(connection, 0, str(status if status >= 0 else 128 - status).encode())


def send(connection: socket.socket, kind: int, data: bytes) -> None:
    connection.sendall(FRAME.pack(kind, len(data)) + data)


def nudge(disk: str, seconds: float) -> None:
    """Read a block of the disk, past the cache, again and again.

    Linux 7.2's ubd driver with two CPUs now and then overlooks that a request has ended, and sees it with the end of
    the next one: without this a process may wait for its file for 5-15 s. Several threads, as theirs are requests too.
    """
    try:
        descriptor = os.open(disk, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return
    block = mmap.mmap(-1, 4096)
    while True:
        os.preadv(descriptor, [block], 0)
        time.sleep(seconds)


def main(address: str) -> None:
    for _ in range(3):
        threading.Thread(target=nudge, args=(DISK, 0.1), daemon=True).start()
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    libc.unshare(CLONE_NEWNET)
    # The card is still at home: a process that enters home sends it here.
    me = str(os.getpid())
    subprocess.run(["nsenter", f"--net=/proc/{me}/fd/{home}", "ip", "link", "set", CARD, "netns", me], check=True)
    for words in (
        ["link", "set", "lo", "up"],
        ["address", "add", f"{address}/24", "dev", CARD],
        ["link", "set", CARD, "up"],
    ):
        subprocess.run(["ip", *words], check=True)
    with socket.create_server((address, PORT), backlog=64) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, home), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])
