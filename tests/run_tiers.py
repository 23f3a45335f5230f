"""Runs the test tiers in two lanes side by side and closes with their counts.

usage: python tests/run_tiers.py [tier ...]      without a tier: every one that this machine can run

One lane computes; the other mostly waits, for a cluster and its pods. The lane that is done first takes what is left.
A tier's output comes whole when the tier ends, or line by line when one lane runs.
"""

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))

from harness import requirements  # noqa: E402 - the path above makes it importable


@dataclass(frozen=True)
class Tier:
    """A folder of tests, and why it cannot run on this machine (nothing: it can)."""

    name: str
    missing: Callable[[], list[str]] = list
    builds: tuple[str, ...] | None = None
    """Arguments of the harness's `build` for what the tier starts; None: nothing of the harness."""


LANES = (
    (Tier("unit"), Tier("multiproc")),
    (
        Tier("chart", requirements.missing, builds=()),
        Tier("controlplane", requirements.missing, builds=()),
        Tier("node", requirements.missing, builds=("--images",)),
    ),
)
EITHER = (Tier("local"),)
NAMES = tuple(tier.name for lane in (*LANES, EITHER) for tier in lane)


@dataclass(frozen=True)
class Result:
    """What one tier's run came to."""

    name: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    reason: str = ""

    def __str__(self) -> str:
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        return f"{self.name:<13} {counts:<38} {self.seconds:6.0f} s  {self.reason}".rstrip()


def run_lane(tiers: Sequence[Tier], others: "deque[Tier]", *, is_alone: bool) -> list[Result]:
    """Run tiers one after the other, then those of `others` that no lane has taken."""
    done = [run(tier, is_alone=is_alone) for tier in tiers]
    while (tier := taken(others)) is not None:
        done.append(run(tier, is_alone=is_alone))
    return done


def taken(others: "deque[Tier]") -> Tier | None:
    """The next one; both lanes may ask at once."""
    try:
        return others.popleft()
    except IndexError:
        return None


def run(tier: Tier, *, is_alone: bool) -> Result:
    """Run one tier's folder with pytest; a run that collects nothing or dies counts as a failure."""
    reasons = tier.missing()
    if reasons:
        return Result(tier.name, 0, 0, 0, 0.0, f"not run here: {'; '.join(reasons)}")
    print(f"=== {tier.name} begins", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report, output = Path(folder) / "report.xml", Path(folder) / "output.txt"
        with output.open("w") as file:
            to = None if is_alone else file
            built = 0.0 if tier.builds is None else timed("harness", "build", *tier.builds, to=to)[0]
            pytest = ("pytest", "-q", "--durations=20", f"--junit-xml={report}", str(TESTS / tier.name))
            seconds, code = timed(*pytest, to=to)
        passed, failed, skipped = counts(report)
        died = not report.exists()
        text = output.read_text(errors="replace")
    if code and not failed:
        failed = 1
    notes = [f"built in {built:.0f} s"] if built else []
    notes += [f"pytest exit {code}"] if code else []
    notes += ["no report: pytest died"] if died else []
    result = Result(tier.name, passed, failed, skipped, seconds, ", ".join(notes))
    print(f"{text}=== {result}\n", flush=True)
    return result


def timed(module: str, *arguments: str, to: IO[str] | None) -> tuple[float, int]:
    """Seconds and exit status of a Python module run as a program, with its output in `to` or on the terminal.

    The harness builds what a tier starts before its tests: minutes on a bare machine, which no test's time limit should
    count. What cannot be built fails the tests that start it, with the reason.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", module, *arguments]
    folder = TESTS if module == "harness" else TESTS.parent
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=to, stderr=to, check=False)
    return time.monotonic() - start, done.returncode


def counts(report: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped tests of a JUnit report; a missing report has none."""
    if not report.exists():
        return 0, 0, 0
    suites = ET.parse(report).getroot().iter("testsuite")  # noqa: S314 - pytest wrote it a moment ago
    total = failed = skipped = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return total - failed - skipped, failed, skipped


def main(names: list[str]) -> int:
    """Run the named tiers, or all; print the table and the closing line."""
    unknown = set(names) - set(NAMES)
    if unknown:
        print(f"no tier called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
        return 2
    *lanes, either = ([tier for tier in lane if not names or tier.name in names] for lane in (*LANES, EITHER))
    lanes = [lane for lane in lanes if lane] or [[]]
    others = deque(either)
    with ThreadPoolExecutor(len(lanes)) as pool:
        done = list(pool.map(lambda lane: run_lane(lane, others, is_alone=len(lanes) == 1), lanes))
    results = sorted((result for lane in done for result in lane), key=lambda result: NAMES.index(result.name))
    print("\n".join(map(str, results)))
    passed, failed = sum(result.passed for result in results), sum(result.failed for result in results)
    skipped = sum(result.skipped for result in results)
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
