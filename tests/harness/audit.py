"""What was written to the API server, by whom: the audit log, read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True)
class Write:
    """One write request; `name` is empty where the server chose the name."""

    at: datetime
    user: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int


class Audit:
    """The audit log of one API server."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def writes(self, since: datetime | None = None, user: str | None = None) -> list[Write]:
        """Every write request that was answered, oldest first: from `since` on, by `user` (a full user name).

        A request is logged as it is answered: give the log a moment before counting the very last one.
        """
        moment = since.astimezone() if since else None
        return [
            write
            for write in self._all()
            if (moment is None or write.at >= moment) and (user is None or write.user == user)
        ]

    def _all(self) -> Iterator[Write]:
        if not self.file.exists():
            return
        with self.file.open() as lines:
            for line in lines:
                if line.endswith("\n"):  # else the API server is in the midst of writing it
                    yield _write(json.loads(line))


def _write(event: dict[str, Any]) -> Write:
    target = event.get("objectRef", {})
    user = event.get("impersonatedUser") or event["user"]
    return Write(
        at=datetime.fromisoformat(event["requestReceivedTimestamp"]),
        user=user["username"],
        verb=event["verb"],
        group=target.get("apiGroup", ""),
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
    )
