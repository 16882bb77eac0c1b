"""``make lab``: the lab that this project began with, without Kubernetes. Exit status 0: every claim was true.

Three times: both directors run lvs-agent; keepalived is dr2; keepalived is dr1. Then each lb_algo with each lb_kind.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.claims import Claims
from tests.lab.kinds import PORTS, KindsStory
from tests.lab.mixed import MixedStory
from tests.lab.place import DIRECTORS, Place
from tests.lab.story import Story

KINDS = "kinds"


def main() -> int:
    parser = argparse.ArgumentParser(prog="lab", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the folder of logs, and say where it is")
    parser.add_argument(
        "--keepalived", choices=("none", *DIRECTORS), help="only the story in which this director runs keepalived"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lvs-lab-"))
    stories = ("none", *reversed(DIRECTORS), KINDS) if options.keepalived is None else (options.keepalived,)
    try:
        return max(_tell(folder / name, "" if name == "none" else name) for name in stories)
    finally:
        if options.keep:
            print(f"logs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _tell(folder: Path, keepalived: str) -> int:
    """One story; its exit status."""
    if keepalived == KINDS:
        with Place(folder, ports=PORTS.values()) as place:
            return KindsStory(place, Claims()).tell()
    with Place(folder, keepalived=keepalived) as place:
        return (MixedStory if keepalived else Story)(place, Claims()).tell()


if __name__ == "__main__":
    sys.exit(main())
