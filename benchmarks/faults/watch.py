"""What the status of every run has said, and when: one watch for all, kept up across the death of the API server."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from harness import Kubectl, builds

Status = dict[str, Any]
AGAIN_SECONDS = 0.3


@dataclass(frozen=True)
class Seen:
    """A status, and when it came; seconds of the monotonic clock."""

    at: float
    status: Status


class Watch:
    """Runs in a thread of its own from `start` on; `stop` ends it."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._command = [str(builds.program("kubectl")), "--kubeconfig", str(kubectl.kubeconfig)]
        self._command += ["get", "qwen3finetunes", "--all-namespaces", "--watch", "-o", "json"]
        self._news = threading.Condition()
        self._seen: dict[str, list[Seen]] = {}
        self._is_over = False
        self._kubectl: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Returns at once; what runs are there already is told first."""
        self._thread.start()

    def stop(self) -> None:
        """Nothing is told any more, and nobody waits for it."""
        self._is_over = True
        if self._kubectl is not None:
            self._kubectl.terminate()
        self._thread.join()

    def history(self, name: str) -> list[Seen]:
        """Everything that was seen of the run, oldest first."""
        with self._news:
            return list(self._seen.get(name, []))

    def now(self, name: str) -> Status:
        """The newest status of the run; empty when there is none."""
        seen = self.history(name)
        return seen[-1].status if seen else {}

    def first(self, name: str, fact: Callable[[Status], bool], *, since: float, timeout: float) -> Seen | None:
        """The first status at `since` or later of which `fact` is true; None when none comes within `timeout`.

        The status that stood at `since` counts as seen then.
        """
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                for each in _standing(self._seen.get(name, []), since):
                    if fact(each.status):
                        return each
                left = deadline - time.monotonic()
                if left <= 0 or self._is_over:
                    return None
                self._news.wait(min(left, 1))

    def _follow(self) -> None:
        while not self._is_over:
            self._kubectl = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
            )
            assert self._kubectl.stdout is not None
            for run in _objects(self._kubectl.stdout):
                self._take(run)
            self._kubectl.wait()
            time.sleep(AGAIN_SECONDS)

    def _take(self, run: dict[str, Any]) -> None:
        name, status = run["metadata"]["name"], run.get("status", {})
        with self._news:
            history = self._seen.setdefault(name, [])
            if not history or history[-1].status != status:
                history.append(Seen(time.monotonic(), status))
                self._news.notify_all()


def _standing(history: list[Seen], since: float) -> Iterator[Seen]:
    before = [each for each in history if each.at < since]
    if before:
        yield Seen(since, before[-1].status)
    yield from (each for each in history if each.at >= since)


def _objects(stream: IO[str]) -> Iterator[dict[str, Any]]:
    """The objects of a stream in kubectl's own layout: each begins and ends with a brace that stands alone."""
    lines: list[str] = []
    for line in stream:
        lines.append(line)
        if line == "}\n":
            yield json.loads("".join(lines))
            lines = []
