"""helm as a function: installs the chart into one cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness import builds
from harness.shell import run


class Helm:
    """Calls helm as the user of one kubeconfig; what helm remembers stays beside that file."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def __call__(self, *words: str | Path, timeout: float = 300) -> str:
        """What `helm <words>` prints; HarnessError, with what it complained of, when it fails."""
        homes = {
            f"HELM_{kind}_HOME": str(self.kubeconfig.parent / "helm" / kind) for kind in ("CACHE", "CONFIG", "DATA")
        }
        env = {**homes, "KUBECONFIG": str(self.kubeconfig)}
        return run([builds.program("helm"), *words], env=env, timeout=timeout)

    def json(self, *words: str | Path) -> Any:
        """What `helm <words> -o json` returns, parsed."""
        return json.loads(self(*words, "-o", "json"))
