"""Running a command to its end, with errors that show what it said."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class HarnessError(RuntimeError):
    """The harness cannot go on; the message says what happened and what to do."""


def run(
    command: Sequence[str | Path],
    *,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> str:
    """The command's standard output; `env` adds to this process's environment. Any other end is a HarnessError."""
    words = [str(word) for word in command]
    environment = {**os.environ, **env} if env else None
    try:
        done = subprocess.run(
            words, input=stdin, cwd=cwd, env=environment, timeout=timeout, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise HarnessError(f"`{words[0]}` is not installed on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise HarnessError(f"`{' '.join(words)}` was still running after {timeout:.0f} s") from error
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-30:])
        raise HarnessError(f"`{' '.join(words)}` ended with {done.returncode}:\n{said}")
    return done.stdout


def succeeds(command: Sequence[str | Path]) -> bool:
    """Whether the command ends with 0; its output is of no interest."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
