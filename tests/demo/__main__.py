"""``make demo``: the main job on a real three-node Kubernetes. Exit status 0 only if every claim was true."""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from tests.claims import Claims
from tests.demo.story import CannotGoOn, Story
from tests.demo.world import World
from tests.rig.cluster import Cluster, cluster
from tests.rig.errors import RigError
from tests.rig.image import archives


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster up, and say how to use it")
    parser.add_argument("--freeze-api", action="store_true", help="the API server is stopped while the node crashes")
    options = parser.parse_args()
    claims = Claims()
    where = cluster()
    try:
        begin(where, claims, owned=not options.keep)
        world = World(where)
        with contextlib.closing(world.api):
            Story(world, claims, freeze_api=options.freeze_api).tell()
    except (CannotGoOn, RigError, AssertionError) as error:
        claims.check("the demo can go on", False, str(error))
    finally:
        if claims.status:
            dump(where)
        if options.keep:
            print(f"\nThe cluster is up: export KUBECONFIG={where.kubeconfig}")
        else:
            where.down()
    return claims.close()


def begin(where: Cluster, claims: Claims, *, owned: bool) -> None:
    """A cluster with our images on every node."""
    claims.heading("A real Kubernetes: three nodes, each with its own kernel")
    where.load_images(archives())
    where.up(owned=owned)
    claims.say(where.kubectl("get", "nodes", "-o", "wide"))


def dump(where: Cluster) -> None:
    """What one wants to read after a failure, in a folder that stays."""
    folder = Path(tempfile.mkdtemp(prefix="lvs-demo-"))
    try:
        where.dump(folder)
    except (RigError, OSError) as error:
        print(f"no dump: {error}")
    print(f"    logs, objects and tables: {folder}")


if __name__ == "__main__":
    sys.exit(main())
