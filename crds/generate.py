#!/usr/bin/env python3
"""Write the CustomResourceDefinitions:   python crds/generate.py [DIR]   (default: the folder of this file).

tests/unit/test_crd_model.py fails when the files differ from the model.
"""

import sys
from pathlib import Path

import yaml

from lvsapi.schema import class_crd, virtual_service_crd

HEAD = "# Made by crds/generate.py from crds/lvsapi/schema.py; change that and run it again.\n"


class _Plain(yaml.SafeDumper):
    """Without anchors: schemas repeat, and readers should not have to look them up."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def rendered() -> dict[str, str]:
    """The files' texts by name."""
    crds = {"virtualservice.yaml": virtual_service_crd(), "virtualserviceclass.yaml": class_crd()}
    return {
        name: HEAD + yaml.dump(crd, Dumper=_Plain, sort_keys=False, width=110, allow_unicode=True)
        for name, crd in crds.items()
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, text in rendered().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
