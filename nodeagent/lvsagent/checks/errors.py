"""Errors of sockets: whose fault they are, and in words."""

import errno
import os
from typing import Final

from lvsagent.checks.answer import Answer

OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN})
"""What this node lacks. EAGAIN of connect(2): no free port."""


def ours(error: OSError) -> Answer:
    """The question could not be asked at all."""
    return Answer(ok=False, ours=True, reason=spoken(error.errno) if error.errno else str(error))


def spoken(number: int) -> str:
    """``connection refused``, from an errno."""
    text = os.strerror(number)
    return text[:1].lower() + text[1:]
