"""A web server of the lab: says who it is, who asked, and what was asked, in the words of traefik/whoami.

SIGUSR1 makes it ill: it answers 503, and well again.
"""

import argparse
import asyncio
import contextlib
import signal
import ssl

ill = asyncio.Event()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
    """Answers the requests of one connection until it is closed."""
    host, port, *_ = writer.get_extra_info("peername")
    with contextlib.suppress(OSError, EOFError):
        keep = True
        while keep:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            keep = "connection: close" not in head.lower()
            body = f"Hostname: {name}\nRemoteAddr: {host}:{port}\n{head}".encode("latin-1")
            status = b"503 Service Unavailable" if ill.is_set() else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n" % len(body))
            writer.write((b"" if keep else b"Connection: close\r\n") + b"\r\n" + body)
            await writer.drain()
    writer.close()


def turn() -> None:
    """Ill or well."""
    (ill.clear if ill.is_set() else ill.set)()


async def run(name: str, address: str, ports: list[int], tls: int, certificate: str) -> None:
    """For ever. ``tls``: one more port, 0 for none; ``certificate``: a file with the key, too."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, turn)
    for port in ports:
        await asyncio.start_server(lambda reader, writer: serve(reader, writer, name), address, port)
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        await asyncio.start_server(lambda reader, writer: serve(reader, writer, name), address, tls, ssl=context)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="lab.web")
    parser.add_argument("--name", required=True)
    parser.add_argument("--address", default="0.0.0.0")
    parser.add_argument("--port", type=int, nargs="+", default=[80])
    parser.add_argument("--tls-port", type=int, default=0)
    parser.add_argument("--certificate", default="")
    options = parser.parse_args()
    asyncio.run(run(options.name, options.address, options.port, options.tls_port, options.certificate))


if __name__ == "__main__":
    main()
