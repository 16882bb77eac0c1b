"""``make lab``: the lab that this project began with, without Kubernetes. Exit status 0: every claim was true."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.claims import Claims
from tests.lab.place import Place
from tests.lab.story import Story


def main() -> int:
    parser = argparse.ArgumentParser(prog="lab", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the folder of logs, and say where it is")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lvs-lab-"))
    try:
        with Place(folder) as place:
            status = Story(place, Claims()).tell()
    finally:
        if options.keep:
            print(f"logs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
