"""What ip(8), nft(8) and sysctl(8) are asked most often, done by this process: the same words, the same output.

In a guest starting one of them costs 25 to 45 ms of a processor, and the tests ask them thousands of times. What is
not understood here, or what the kernel refuses, is for the command itself, which says it better.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.net import rtnetlink

A_COMMAND = 0.03
"""Seconds that the command would have taken: an interface that was switched on mostly works by then."""


def done(argv: Sequence[str]) -> str | None:
    """The output; None: start the command."""
    program, *words = argv
    try:
        match program:
            case "ip":
                return "" if _ip(words) else None
            case "nft":
                return _nft(" ".join(words)) if words and not words[0].startswith("-") else None
            case "sysctl":
                return _sysctl(words)
    except OSError:
        return None
    return None


def _ip(words: list[str]) -> bool:
    match words:
        case ["link", "set", "dev", name, *rest] | ["link", "set", name, *rest]:
            return _set_link(name, rest)
        case ["link", "add", name, "type", "bridge"]:
            rtnetlink.add_bridge(name)
        case ["address", "add" | "del" | "delete" as how, address, "dev", name]:
            rtnetlink.change_address(address, name, gone=how != "add")
        case ["address", "add" | "replace" as how, address, "dev", name, "nodad"]:
            rtnetlink.change_address(address, name, replace=how != "add", nodad=True)
        case ["address", "replace", address, "dev", name]:
            rtnetlink.change_address(address, name, replace=True)
        case ["route", "add", target, "via", gateway] if "/" in target:
            rtnetlink.add_route(target, via=gateway)
        case _:
            return False
    return True


def _set_link(name: str, rest: list[str]) -> bool:
    match rest:
        case ["up" | "down" as how]:
            _switch(name, how == "up")
        case ["master", master, "up"]:
            rtnetlink.set_master(name, master)
            _switch(name, True)
        case _:
            return False
    return True


def _switch(name: str, on: bool) -> None:
    rtnetlink.set_up(name, on)
    if on and name != "lo":
        rtnetlink.await_working(name, seconds=A_COMMAND)


def _sysctl(words: list[str]) -> str | None:
    match words:
        case ["-n", name] if "/" not in name:
            return _setting(name).read_text()
        case ["-qw", *settings] if all("/" not in one.partition("=")[0] for one in settings):
            for one in settings:
                name, _, value = one.partition("=")
                _setting(name).write_text(value)
            return ""
    return None


def _setting(name: str) -> Path:
    return Path("/proc/sys", name.replace(".", "/"))


def _nft(text: str) -> str | None:
    """By libnftables, of which nft(8) is the command line."""
    library = _libnftables()
    if library is None:
        return None
    context = library.nft_ctx_new(0)  # its socket is in the namespace of this thread
    if not context:
        return None
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        if library.nft_run_cmd_from_buffer(context, text.encode()) != 0:
            return None
        return bytes(library.nft_ctx_get_output_buffer(context) or b"").decode()
    finally:
        library.nft_ctx_free(context)


@functools.cache
def _libnftables() -> ctypes.CDLL | None:
    """None where only the command is installed."""
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError:
        return None
    results: dict[str, Callable[..., object] | type | None] = {
        "nft_ctx_new": ctypes.c_void_p,
        "nft_ctx_get_output_buffer": ctypes.c_char_p,
        "nft_ctx_buffer_output": ctypes.c_int,
        "nft_ctx_buffer_error": ctypes.c_int,
        "nft_run_cmd_from_buffer": ctypes.c_int,
        "nft_ctx_free": None,
    }
    for name, result in results.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = [ctypes.c_uint32] if name == "nft_ctx_new" else [ctypes.c_void_p]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library
