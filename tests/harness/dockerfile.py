"""Which files of the context a target of a Dockerfile copies: what its image depends on, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness import cache
from harness.shell import HarnessError

_IGNORED = {"__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


@dataclass
class Stage:
    """One FROM of a Dockerfile: the stages it builds on, and the paths that it copies from the context."""

    needs: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)


def fingerprint(dockerfile: Path, context: Path, target: str) -> str:
    """A hash of all that goes into the target: the Dockerfile and the content of every file that is copied."""
    text = dockerfile.read_text()
    parts: list[str | bytes] = [text, target]
    for path in sorted(set(_files(context, sources(text, target)))):
        mode = "x" if path.stat().st_mode & 0o100 else "-"
        parts += [str(path.relative_to(context)), mode, path.read_bytes()]
    return cache.digest(parts)


def sources(text: str, target: str) -> list[str]:
    """The paths and patterns that the target, and the stages that it builds on, copy from the context."""
    stages = _stages(text)
    if target not in stages:
        raise HarnessError(f"the Dockerfile has no target {target!r}, only {', '.join(stages)}")
    found: list[str] = []
    waiting, seen = [target], set[str]()
    while waiting:
        name = waiting.pop()
        if name in stages and name not in seen:
            seen.add(name)
            found += stages[name].copies
            waiting += stages[name].needs
    return sorted(set(found))


def _stages(text: str) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    current = Stage()
    for instruction, rest in _instructions(text):
        flags = dict(re.findall(r"--(\w+)=(\S+)", rest))
        words = _words(re.sub(r"--\w+=\S+", "", rest).strip())
        if instruction == "FROM":
            current = Stage(needs=[words[0]])
            stages[words[2] if len(words) > 2 else str(len(stages))] = current
        elif instruction in {"COPY", "ADD"} and "from" in flags:
            current.needs.append(flags["from"])
        elif instruction in {"COPY", "ADD"}:
            current.copies += words[:-1]
        elif instruction == "RUN":
            current.copies += re.findall(r"--mount=type=bind,(?!\S*from=)\S*source=([^,\s]+)", rest)
    return stages


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if rest:
            yield instruction.upper(), rest.strip()


def _words(text: str) -> list[str]:
    return list(json.loads(text)) if text.startswith("[") else text.split()


def _files(context: Path, patterns: list[str]) -> Iterator[Path]:
    for pattern in patterns:
        clean = pattern.strip("/").removeprefix("./")
        matches = [context] if clean in {"", "."} else list(context.glob(clean))
        if not matches:
            raise HarnessError(f"the Dockerfile copies {pattern!r}, and {context} has no such file")
        for match in matches:
            yield from _below(match)


def _below(path: Path) -> Iterator[Path]:
    if path.name in _IGNORED or path.suffix == ".pyc":
        return
    if path.is_dir():
        for child in path.iterdir():
            yield from _below(child)
    elif path.is_file():
        yield path
