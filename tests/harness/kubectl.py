"""kubectl as a function: text in, parsed JSON out, and an exception that quotes what the API server said."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness import builds
from harness.shell import HarnessError, run

Manifest = str | Mapping[str, Any] | Iterable[Mapping[str, Any]]


class Kubectl:
    """Calls kubectl as the user of one kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        # Its own, because another cluster may have had the same port, and kubectl remembers servers by that.
        self.memory = kubeconfig.with_suffix(".discovery")

    def __call__(self, *words: str, stdin: str | None = None, timeout: float = 120) -> str:
        """What `kubectl <words>` prints; HarnessError, with what it complained of, when it fails."""
        command: list[str | Path] = [builds.program("kubectl"), "--kubeconfig", self.kubeconfig]
        return run([*command, "--cache-dir", self.memory, *words], stdin=stdin, timeout=timeout)

    def json(self, *words: str) -> Any:
        """What `kubectl <words> -o json` returns, parsed."""
        return json.loads(self(*words, "-o", "json"))

    def find(self, *words: str) -> Any | None:
        """Like `json("get", …)`, but None for an object that is not there."""
        text = self("get", *words, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text.strip() else None

    def apply(self, manifest: Manifest, *words: str) -> None:
        """Applies a manifest server-side: YAML text, one object or several."""
        self("apply", "--server-side", *words, "-f", "-", stdin=_text(manifest))

    def wait(self, *words: str, timeout: float = 120) -> None:
        """`kubectl wait <words>`, for at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            left = max(deadline - time.monotonic(), 1)
            try:
                self("wait", *words, f"--timeout={left:.0f}s", timeout=left + 10)
                return
            except HarnessError as error:
                # kubectl gives up on an object whose conditions nobody has written yet, instead of waiting for them
                if "conditions accessor error" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def works(self, *words: str) -> bool:
        """Whether `kubectl <words>` succeeds."""
        try:
            self(*words)
        except HarnessError:
            return False
        return True


def _text(manifest: Manifest) -> str:
    if isinstance(manifest, str):
        return manifest
    if isinstance(manifest, Mapping):
        return json.dumps(dict(manifest))
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [dict(item) for item in manifest]})
