"""A node's ranks begin together and end together."""

import subprocess
import sys
import time
from pathlib import Path

from finetune_trainer.ranks import Ranks

WAITS = "import signal, time; {handler}; open(mine, 'w').close(); time.sleep(60)"
FAILS = "while not os.path.exists(theirs): time.sleep(0.01)\nsys.exit(3)"


def ranks(folder: Path, *programs: str, farewell_seconds: float = 60) -> Ranks:
    """One program for each rank; `mine` is a file for it to tell that it runs, `theirs` the last rank's."""
    chosen = f"[{', '.join(map(repr, programs))}][int(os.environ['LOCAL_RANK'])]"
    names = f"mine, theirs = [{str(folder)!r} + '/' + each for each in (os.environ['RANK'], '5')]"
    command = [sys.executable, "-c", f"import os, sys, time\n{names}\nexec({chosen})"]
    return Ranks(command, {}, first=4, count=len(programs), world_size=8, farewell_seconds=farewell_seconds)


def ended(running: Ranks) -> dict[int, int]:
    while running.are_running():
        time.sleep(0.01)
    return running.ends


def test_each_is_told_its_place(tmp_path: Path) -> None:
    keys = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    tells = f"print(*(os.environ[key] for key in {keys}), file=open(mine, 'w'))"
    assert ended(ranks(tmp_path, tells, tells)) == {4: 0, 5: 0}
    assert [(tmp_path / rank).read_text() for rank in ("4", "5")] == ["4 0 8 2\n", "5 1 8 2\n"]


def test_one_that_fails_ends_the_others_and_comes_first(tmp_path: Path) -> None:
    heeds = WAITS.format(handler="signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))")
    assert list(ended(ranks(tmp_path, FAILS, heeds)).items()) == [(4, 3), (5, 75)]


def test_one_that_does_not_listen_then_is_killed(tmp_path: Path) -> None:
    is_deaf = WAITS.format(handler="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert list(ended(ranks(tmp_path, FAILS, is_deaf, farewell_seconds=0.1)).items()) == [(4, 3), (5, -9)]


def test_all_are_killed_at_once(tmp_path: Path) -> None:
    running = ranks(tmp_path, "time.sleep(60)", "time.sleep(60)")
    running.kill()
    assert ended(running) == {4: -9, 5: -9}


def test_a_launcher_starts_without_torch() -> None:
    found = "import finetune_trainer.launch, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, check=True).stdout == "False\n"
