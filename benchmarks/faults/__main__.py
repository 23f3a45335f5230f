"""A table of faults on a real cluster: is the cause named, how soon, are decision and result right, what is left?

usage: python benchmarks/faults [NAME...] [--list] [--at-once 4] [--results FOLDER] [--keep FOLDER]
       python benchmarks/faults --random 30 [--seed 1] [--first 0] [--at-once 3]

Names are those of stories or of their files (waiting, inputs, running, hands, cluster); without names all are told.
Rows replace older ones of the same name in results.json, and the table is written anew from all of them.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tests"), str(HERE)]

import interleavings  # noqa: E402
import report  # noqa: E402
from case import STORIES, Story, told  # noqa: E402
from report import Row  # noqa: E402
from stage import Stage, opened  # noqa: E402
from stories import cluster, hands, inputs, running, waiting  # noqa: E402

FILES: tuple[ModuleType, ...] = (waiting, inputs, running, hands, cluster)


def main() -> None:
    """Tell the stories, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="stories, or files of them")
    parser.add_argument("--list", action="store_true", help="the names, and no more")
    parser.add_argument("--at-once", type=int, default=4, help="so many stories at the same time")
    parser.add_argument("--random", type=int, metavar="COUNT", help="random interleavings of kills instead")
    parser.add_argument("--seed", type=int, default=1, help="of the interleavings")
    parser.add_argument("--first", type=int, default=0, help="number of the first interleaving")
    parser.add_argument("--results", type=Path, default=HERE, help="folder of results.json and the table")
    parser.add_argument("--keep", type=Path, help="folder for logs of the cluster and of what went wrong")
    options = parser.parse_args()
    stories = chosen(options.names)
    if options.list:
        print("\n".join(f"{each.name:20} {each.title}" for each in stories))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # with the cluster
    book = Book(options.results / ("interleavings" if options.random else "results"))
    with opened() as stage:
        try:
            if options.random:
                numbers = range(options.first, options.first + options.random)
                tell_all(stage, interleavings.stories(options.seed, numbers), options.at_once, book)
            else:
                tell_all(stage, stories, options.at_once, book)
        finally:
            if options.keep is not None:
                keep(stage, options.keep)
    print(book.table)
    sys.exit(0 if all(row.is_right for row in book.rows) else 1)


class Book:
    """Where the rows of this call are written down, each as soon as it is there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._commit = commit_of_checkout()
        self.rows: list[Row] = []
        """Of this call."""
        self.table = ""
        """Of all calls."""

    def enter(self, row: Row) -> None:
        """Says it, and writes it into the table of all rows."""
        columns = (row.is_named, row.is_decision_right, row.is_result_right, row.is_clean)
        marks = "".join("✓" if each else "✗" for each in columns)
        print(f"{time.strftime('%H:%M:%S')} {marks} {row.name} ({row.seconds} s) {row.trouble or ''}", flush=True)
        row.commit, row.date = self._commit, datetime.now(UTC).isoformat(timespec="minutes")
        self.rows.append(row)
        order = [each.name for each in chosen(())]
        self.table = report.markdown(report.merged(self._file.with_suffix(".json"), [row], order))
        self._file.with_suffix(".md").write_text(self.table)


def chosen(names: Sequence[str]) -> list[Story]:
    """The stories of these names or files; all without names."""
    by_file = {file.__name__.rpartition(".")[2]: file.__name__ for file in FILES}
    unknown = [name for name in names if name not in STORIES and name not in by_file]
    if unknown:
        sys.exit(f"no story or file is named {', '.join(unknown)}; --list shows them")
    modules = {by_file[name] for name in names if name in by_file}
    ordered = sorted(STORIES.values(), key=lambda each: list(by_file.values()).index(each.tell.__module__))
    return [each for each in ordered if not names or each.name in names or each.tell.__module__ in modules]


def tell_all(stage: Stage, stories: Sequence[Story], at_once: int, book: Book) -> None:
    """Most of them at the same time; one after the other those that change what all share."""
    pool = ThreadPoolExecutor(max_workers=at_once)
    try:
        together = sorted((each for each in stories if not each.is_alone), key=lambda each: not each.is_long)
        for done in as_completed([pool.submit(told, stage, each) for each in together]):
            book.enter(done.result())
        for each in stories:
            if each.is_alone:
                book.enter(told(stage, each))
    finally:
        stage.watch.stop()
        pool.shutdown(cancel_futures=True)


def keep(stage: Stage, folder: Path) -> None:
    """Logs of the cluster, and what was written down of stories that went wrong."""
    stage.cluster.collect_logs(folder / "cluster")
    for file in stage.work.glob("*.txt"):
        (folder / file.name).write_bytes(file.read_bytes())


def commit_of_checkout() -> str:
    """Short name of the commit that was measured, with a + if files differ from it."""
    words = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
