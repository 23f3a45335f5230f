"""Runs tests in a copy of the repository, in a process forked from this one, which has imported everything heavy.

Importing torch and transformers takes eight seconds and is the same for every mutation; the product itself is never
imported here, so every child imports it from the copy.
"""

import importlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PRODUCT: Final = ("finetune_contract", "finetune_operator", "finetune_trainer")
HEAVY: Final = ("torch", "transformers", "peft", "deepspeed", "datasets", "hypothesis")
SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Result:
    """What pytest said."""

    passed: int
    failures: tuple[str, ...]
    """Messages of the tests that failed, and of fixtures."""
    problem: str = ""
    """Why there is no verdict: nothing was collected, a file could not be imported, the time was up."""


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


def run_tests(root: Path, tests: Sequence[str]) -> Result:
    """Run `tests` of the copy at `root` until one fails."""
    report, output = root / "mutation-report.xml", root / "mutation-output.txt"
    report.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(root, tests, report, output))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return Result(0, (), f"no end after {SECONDS} s")
    if process.exitcode not in (0, 1) or not report.exists():
        return Result(0, (), f"pytest ended with {process.exitcode}:\n{output.read_text(errors='replace')[-2000:]}")
    return _read(report)


def _child(root: Path, tests: Sequence[str], report: Path, output: Path) -> None:
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

    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", f"--junit-xml={report}", *tests])
    sys.stdout.flush()
    os._exit(int(code))


def _read(report: Path) -> Result:
    passed, failures = 0, []
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
        ends = [end for end in case if end.tag in ("failure", "error")]
        failures += [f"{end.get('message', '')}\n{end.text or ''}" for end in ends]
        passed += not ends and case.find("skipped") is None
    problem = "" if passed or failures else "nothing was run"
    return Result(passed, tuple(failures), problem)
