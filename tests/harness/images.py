"""The project's own images: built from its Dockerfile, named by what went into them, and put into the node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from harness import base, buildah, cache, dockerfile
from harness.containerd import PAUSE_IMAGE, Containerd
from harness.shell import HarnessError

_REPOSITORY = "localhost/qwen3-finetune"


def tag(target: str, file: Path, context: Path) -> str:
    """The image's name: the same for the same Dockerfile and sources, another one when any of them changes."""
    return f"{_REPOSITORY}/{target}:{dockerfile.fingerprint(file, context, target)}"


def ensure_image(target: str, file: Path, context: Path, node: Containerd | None = None) -> str:
    """Builds the target of the Dockerfile unless it is there already, puts it into the node, and returns its name.

    Older images of the same target are removed from both places: a trainer image takes gigabytes.
    """
    name = tag(target, file, context)
    with cache.lock("images"):  # one at a time: pruning would take the layers of a build under way
        if node and name in node.images():
            return name
        if not buildah.has(name):
            _build(name, target, file, context)
        if node:
            load(name, node)
            node.remove_images(_older(name, node.images()))
    return name


def ensure_pause(node: Containerd) -> None:
    """Puts the image in that holds every pod's namespaces: busybox, asleep; tests use it as a tiny toolbox, too."""
    with cache.lock("images"):
        if PAUSE_IMAGE in node.images():
            return
        with tempfile.TemporaryDirectory() as folder:
            context = Path(folder)
            (context / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
            (context / "busybox").chmod(0o755)
            file = context / "Dockerfile"
            file.write_text('FROM scratch\nCOPY busybox /busybox\nENTRYPOINT ["/busybox", "sleep", "2147483647"]\n')
            buildah.build(PAUSE_IMAGE, file, context)
        load(PAUSE_IMAGE, node)


def load(name: str, node: Containerd) -> None:
    """Moves an image from buildah's store into the node's; only blobs that the node lacks are copied."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=cache.home()) as folder:
        layout = Path(folder)
        known = _link_known_blobs(node.blobs, layout / "blobs" / "sha256")
        buildah.push(name, layout)
        _import(name, layout, known, node)
    print(f"loaded {name} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def _build(name: str, target: str, file: Path, context: Path) -> None:
    start = time.monotonic()
    print(f"building {name}", file=sys.stderr, flush=True)
    arguments = ["--build-arg", f"BASE_IMAGE={base.image()}", "--target", target]
    buildah.build(name, file, context, arguments)
    buildah.remove(_older(name, buildah.names()))
    print(f"built {name} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def _older(name: str, images: set[str]) -> set[str]:
    repository = name.rpartition(":")[0]
    return {image for image in images if image.rpartition(":")[0] == repository and image != name}


def _link_known_blobs(blobs: Path, into: Path) -> set[str]:
    """Shows buildah what the node has already, as hard links: it then writes the new blobs only."""
    into.mkdir(parents=True)
    known = {blob.name for blob in blobs.glob("*")}
    for name in known:
        os.link(blobs / name, into / name)
    return known


def _import(name: str, layout: Path, known: set[str], node: Containerd) -> None:
    index = json.loads((layout / "index.json").read_text())
    for manifest in index["manifests"]:
        manifest.setdefault("annotations", {})["io.containerd.image.name"] = name
    (layout / "index.json").write_text(json.dumps(index))
    command = node.command("images", "import", "--snapshotter", node.snapshotter, "-")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        if process.stdin and process.stdout:  # always so: both are pipes
            with suppress(BrokenPipeError), process.stdin, tarfile.open(fileobj=process.stdin, mode="w|") as archive:
                for path in sorted(layout.rglob("*")):
                    if path.name not in known and path.is_file():
                        archive.add(path, str(path.relative_to(layout)))
            said = process.stdout.read().decode(errors="replace")
    if process.returncode or name not in node.images():
        raise HarnessError(f"the node did not take {name}:\n{said}")
