"""Runs the test tiers one after the other and closes with their counts.

usage: python tests/run_tiers.py [tier ...]      without a tier: every one that this machine can run
"""

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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


TIERS = (
    Tier("unit"),
    Tier("multiproc"),
    Tier("local"),
    Tier("chart", requirements.missing, builds=()),
    Tier("controlplane", requirements.missing, builds=()),
    Tier("node", requirements.missing, builds=("--images",)),
)


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


def run(tier: Tier) -> Result:
    """Run one tier's folder with pytest; a run that collects nothing or dies counts as a failure."""
    reasons = tier.missing()
    if reasons:
        return Result(tier.name, 0, 0, 0, 0.0, f"not run here: {'; '.join(reasons)}")
    print(f"\n=== {tier.name}", flush=True)
    if tier.builds is not None:
        build(tier.builds)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        pytest = [sys.executable, "-m", "pytest", "-q", "--durations=5", f"--junit-xml={report}"]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        done = subprocess.run([*pytest, str(TESTS / tier.name)], cwd=TESTS.parent, env=environment, check=False)
        code = done.returncode
        passed, failed, skipped = counts(report)
    if code and not failed:
        failed = 1
    return Result(tier.name, passed, failed, skipped, time.monotonic() - start, f"pytest exit {code}" if code else "")


def build(arguments: tuple[str, ...]) -> None:
    """Have the harness build what a tier starts: minutes on a bare machine, which no test's time limit should count.

    What cannot be built fails the tests that start it, with the reason.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", "harness", "build", *arguments]
    subprocess.run(command, cwd=TESTS.parent, env=os.environ | {"PYTHONPATH": str(TESTS)}, check=False)
    print(f"built in {time.monotonic() - start:.0f} s", flush=True)


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
    unknown = set(names) - {tier.name for tier in TIERS}
    if unknown:
        print(f"no tier called {', '.join(sorted(unknown))}; there are {', '.join(tier.name for tier in TIERS)}")
        return 2
    results = [run(tier) for tier in TIERS if not names or tier.name in names]
    print("\n" + "\n".join(map(str, results)))
    passed, failed = sum(result.passed for result in results), sum(result.failed for result in results)
    skipped = sum(result.skipped for result in results)
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
