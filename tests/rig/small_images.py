"""Images that the rig makes itself: the pause process of a pod, and a web server that says whom it sees."""

from pathlib import Path

from . import cache, layout, oci, shell
from .build_kubernetes import compile_go, go
from .progress import Progress

PAUSE_SOURCE = "#include <unistd.h>\nint main(void){for(;;)pause();}\n"
WEB = "docker.io/traefik/whoami:latest"
"""The name under which the examples ask for it; what runs in the rig is ``web/main.go``."""
WEB_SOURCE = Path(__file__).with_name("web")


def pause() -> Path:
    """The archive of the image that containerd puts under every pod."""
    return cache.built("pause", cache.key(PAUSE_SOURCE, layout.PAUSE), _pause) / "pause.tar"


def web() -> Path:
    """The archive of the web server."""
    return cache.built("web", cache.key(WEB_SOURCE / "main.go", WEB), _web) / "web.tar"


def _pause(folder: Path, progress: Progress) -> None:
    (folder / "pause.c").write_text(PAUSE_SOURCE)
    shell.run(["gcc", "-O2", "-static", "-o", folder / "pause", folder / "pause.c"])
    oci.write(folder / "pause.tar", layout.PAUSE, {"/pause": (folder / "pause").read_bytes()}, ["/pause"])


def _web(folder: Path, progress: Progress) -> None:
    compile_go(go(), WEB_SOURCE, folder / "web", ["-ldflags", "-s -w"], 0, progress)
    oci.write(folder / "web.tar", WEB, {"/whoami": (folder / "web").read_bytes()}, ["/whoami"])
