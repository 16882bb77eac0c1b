"""``lvs-checks``: asks backends how they are. The agent starts it, says on standard input what is to be asked and reads
verdicts on standard output; it ends with its input."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

from lvsagent.checks import limits
from lvsagent.checks.asker import Asker
from lvsagent.checks.lines import LONGEST_LINE, LineError, TargetsReader
from lvsagent.checks.outlet import Outlet
from lvsagent.checks.table import AT_ONCE, checkers
from lvsagent.runtime import logs

STATISTICS_SECONDS = 5.0

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until standard input ends. 0: it did; 2: the command line makes no sense."""
    parser = argparse.ArgumentParser(prog="lvs-checks", description=__doc__)
    parser.add_argument("--allow-exec", action="store_true", help="run the commands of checks of type Exec")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    options = parser.parse_args(argv)
    logs.setup(options.log_format)
    limits.stand_back()
    asyncio.run(serve(options.allow_exec))
    return 0


async def serve(allow_exec: bool) -> None:
    """Until standard input ends or nobody reads standard output."""
    loop = asyncio.get_running_loop()
    outlet = Outlet(sys.stdout.fileno(), loop)
    asker = Asker(outlet=outlet, loop=loop, checkers=checkers(allow_exec), at_once=AT_ONCE, most=limits.most_open())
    parts = [loop.create_task(part) for part in (_listen(asker), _tell(asker, outlet), outlet.closed.wait())]
    try:
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()
    finally:
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await asker.close()


async def _listen(asker: Asker) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=LONGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    reader = TargetsReader()
    while line := await lines.readline():
        try:
            for wish in reader.decode(line):
                if wish is None:
                    await asyncio.sleep(0)
                else:
                    asker.want(wish)
        except LineError as error:
            _log.error("the agent said something unknown; are both of one version?", extra={"error": error})


async def _tell(asker: Asker, outlet: Outlet) -> None:
    while True:
        await asyncio.sleep(STATISTICS_SECONDS)
        outlet.say(asker.statistics())


if __name__ == "__main__":
    sys.exit(main())
