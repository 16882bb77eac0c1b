"""A web server of the lab: says who it is, who asked, and what was asked, in the words of traefik/whoami."""

import argparse
import asyncio
import contextlib


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
    """Answers the requests of one connection until it is closed."""
    host, port, *_ = writer.get_extra_info("peername")
    with contextlib.suppress(OSError, EOFError):
        keep = True
        while keep:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            keep = "connection: close" not in head.lower()
            body = f"Hostname: {name}\nRemoteAddr: {host}:{port}\n{head}".encode("latin-1")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n" % len(body))
            writer.write((b"" if keep else b"Connection: close\r\n") + b"\r\n" + body)
            await writer.drain()
    writer.close()


async def run(name: str, address: str, ports: list[int]) -> None:
    """For ever."""
    for port in ports:
        await asyncio.start_server(lambda reader, writer: serve(reader, writer, name), address, port)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="lab.web")
    parser.add_argument("--name", required=True)
    parser.add_argument("--address", default="0.0.0.0")
    parser.add_argument("--port", type=int, nargs="+", default=[80])
    options = parser.parse_args()
    asyncio.run(run(options.name, options.address, options.port))


if __name__ == "__main__":
    main()
