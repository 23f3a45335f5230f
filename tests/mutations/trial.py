"""Runs tests in a copy of the repository, in a process forked from this one, which has imported everything heavy.

Importing torch and transformers takes eight seconds and is the same for every mutation; the product itself is never
imported here, so every child imports it from the copy.
"""

import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
PRODUCT: Final = ("finetune_contract", "finetune_operator", "finetune_trainer")
HEAVY: Final = ("torch", "transformers", "peft", "deepspeed", "hypothesis")
SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Result:
    """What pytest said."""

    passed: tuple[str, ...]
    """Node ids."""
    failures: dict[str, str]
    """Node id -> message, of tests and of their fixtures."""
    problem: str = ""
    """Why there is no verdict: nothing was collected, a file could not be imported, the time was up."""

    def fails(self, tests: Sequence[str]) -> list[str]:
        """Those of the failed that `tests`, node ids or files, mean."""
        return [node for node in self.failures if any(node.startswith(test) for test in tests)]


@contextmanager
def copied_repository() -> Iterator[Path]:
    """A copy of everything that git does not ignore, as it lies here now."""
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                target = Path(folder) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        yield Path(folder)


def import_heavy() -> None:
    """What all children share."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported
    for name in HEAVY:
        importlib.import_module(name)
    loaded = [name for name in PRODUCT if name in sys.modules]
    assert not loaded, f"{loaded} would hide the copy's"


def run_tests(root: Path, tests: Sequence[str], *, until_first: bool) -> Result:
    """Run `tests` of the copy at `root`, all of them or until one fails."""
    report, output = root / "mutation-report.json", root / "mutation-output.txt"
    report.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(root, [*tests, *(["-x"] if until_first else [])], report, output)
    )
    process.start()
    process.join(SECONDS * (1 if until_first else 4))
    if process.is_alive():
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        return Result((), {}, "no end in time")
    if process.exitcode not in (0, 1) or not report.exists():
        return Result((), {}, f"pytest ended with {process.exitcode}:\n{output.read_text(errors='replace')[-2000:]}")
    told = json.loads(report.read_text(encoding="utf-8"))
    problem = "" if told["passed"] or told["failures"] else "nothing was run"
    return Result(tuple(told["passed"]), told["failures"], problem)


class _Recorder:
    """A plugin of pytest that keeps what became of each test."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failures: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.failures[report.nodeid] = report.longreprtext if crash is None else crash.message
        elif report.when == "call" and report.passed:
            self.passed.append(report.nodeid)


def _child(root: Path, arguments: Sequence[str], report: Path, output: Path) -> None:
    os.setsid()
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.chdir(root)
    paths = [str(root / folder) for folder in ("operator", "trainer", "tests")]
    sys.path[:0] = paths  # before the ones of the editable installation
    # a mutation may come and go within the second, and keep the size, that a compiled file is recognised by
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths[:2]), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    for name in PRODUCT:
        found = importlib.util.find_spec(name)
        assert found is not None
        assert str(found.origin).startswith(str(root)), f"{name} would come from {found.origin}"
    import pytest

    recorder = _Recorder()
    code = pytest.main(["-q", "-p", "no:cacheprovider", *arguments], plugins=[recorder])
    told = {"passed": recorder.passed, "failures": recorder.failures}
    report.write_text(json.dumps(told), encoding="utf-8")
    sys.stdout.flush()
    os._exit(int(code))
