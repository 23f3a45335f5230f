"""The base image: a small Debian with Python, made from the packages that this machine itself installs from."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from pathlib import Path

from harness import buildah, cache
from harness.shell import HarnessError, run

_INCLUDE = "python3,python3-venv,ca-certificates"


def image() -> str:
    """The name of the base image, which is made on first use (about a minute)."""
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "bookworm")
    name = f"localhost/qwen3-finetune/base:{suite}-{cache.digest([suite, _INCLUDE], 8)}"
    with cache.lock("base-image"):
        if not buildah.has(name):
            _make(name, suite)
    return name


def mirror(suite: str) -> str:
    """Where this machine's apt finds the packages of its own release."""
    listed = run(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"])
    for line in listed.splitlines():
        site, _, release = line.partition(" ")
        if release == suite:
            return site
    raise HarnessError(f"apt knows no source for {suite}: see /etc/apt/sources.list and sources.list.d")


def _make(name: str, suite: str) -> None:
    print(f"making the base image {name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=cache.home()) as folder:
        tree = Path(folder) / "tree"
        run(["debootstrap", "--variant=minbase", f"--include={_INCLUDE}", suite, tree, mirror(suite)])
        for waste in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(tree / waste)
            (tree / waste / "partial").mkdir(parents=True)
        context = Path(folder) / "context"
        context.mkdir()
        run(["tar", "-C", tree, "-cf", context / "tree.tar", "."])
        dockerfile = context / "Dockerfile"
        dockerfile.write_text("FROM scratch\nADD tree.tar /\n")
        buildah.build(name, dockerfile, context)
