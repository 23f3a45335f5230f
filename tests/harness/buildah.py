"""buildah with a store of its own in the cache: images are built without any registry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import cache, requirements
from harness.shell import HarnessError, run, succeeds

# What a RUN step may read of this machine, so that it can reach what the machine itself can reach.
_CERTIFICATES = "/etc/ssl/certs"
_PIP_SETTINGS = ("/etc/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf")


def has(image: str) -> bool:
    """Whether the store has an image of that name."""
    return succeeds([*_buildah(), "inspect", "--type", "image", image])


def build(image: str, dockerfile: Path, context: Path, arguments: Sequence[str] = ()) -> None:
    """Builds an image; a step that has been built before is taken from the store. Progress goes to standard error."""
    words = ["build", "--layers", "--isolation", "chroot", "--network", "host", "--format", "docker"]
    command = [*_buildah(), *words, *_machine(), *arguments, "-t", image, "-f", str(dockerfile), str(context)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said = []
        for line in process.stdout or ():
            said.append(line)
            sys.stderr.write(f"  {line}")
    if process.returncode:
        raise HarnessError(f"building {image} from {dockerfile} failed:\n{''.join(said[-40:])}")


def push(image: str, layout: Path) -> None:
    """Writes the image into an OCI layout folder; blobs that are there already are not written again."""
    driver, root, state, *options = _store()
    place = f"[{driver}@{root}+{state}{':' if options else ''}{','.join(options)}]"
    # Not `buildah push`, which would compress gigabytes only for the node to unpack them.
    copy = ["skopeo", "--insecure-policy", "copy", "-q", "--format", "oci", "--dest-oci-accept-uncompressed-layers"]
    run([*copy, f"containers-storage:{place}{image}", f"oci:{layout}:image"])


def names() -> set[str]:
    """The names of all images in the store."""
    listed = run([*_buildah(), "images", "--format", "{{.Name}}:{{.Tag}}"])
    return {line for line in listed.splitlines() if not line.startswith("<none>")}


def remove(images: set[str]) -> None:
    """Removes these images, and every layer that led to no image any more; to be called while no build is under way."""
    run([*_buildah(), "rm", "--all"])  # the containers of builds that were killed would hold their layers
    if images:
        run([*_buildah(), "rmi", "--force", *sorted(images)])
    run([*_buildah(), "rmi", "--prune"])


def _buildah() -> list[str]:
    driver, root, state, *options = _store()
    settings = [word for option in options for word in ("--storage-opt", option)]
    return ["buildah", "--storage-driver", driver, *settings, "--root", root, "--runroot", state]


def _store() -> tuple[str, ...]:
    """Driver, folder, folder of its state, and options of the store."""
    store = cache.home() / "images"
    store.mkdir(exist_ok=True)
    if requirements.overlay_works(cache.home()):
        # Else a mount of the store's folder would outlive the command.
        return "overlay", f"{store}/overlay", f"{store}/run", "overlay.skip_mount_home=true"
    return "vfs", f"{store}/vfs", f"{store}/run"


def _machine() -> list[str]:
    words = ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"]
    for name in _PIP_SETTINGS:
        settings = Path(name).expanduser()
        if settings.exists():
            return [*words, "--volume", f"{settings}:/etc/pip.conf:ro"]
    return words
