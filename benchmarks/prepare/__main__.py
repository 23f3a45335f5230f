"""Prepares a million generated alpaca rows, and the same rows with `datasets.map`, each in a process of its own.

usage: python benchmarks/prepare [--rows 1000000] [--work FOLDER]

Both use Qwen3's tokenizer and chat template, all cores, and must come to the same tokens. Time is wall time of the
process from its start to its end, memory the largest sum over its process tree (proportional set size, so that shared
pages count once).
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

HERE = Path(__file__).parent
WORDS = (HERE / "words.txt").read_text(encoding="utf-8").split()
LOOK_SECONDS = 0.25


def main() -> None:
    """Generate, measure both, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, help="an empty folder to work in; default: a temporary one")
    parser.add_argument("--only", choices=("ours", "map"), help="one of the two")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="prepare-benchmark-"))
    rows = work / "rows.jsonl"
    generate(rows, options.rows)
    tokenizer = tokenizer_folder(work)
    print(
        f"{options.rows:,} rows, {rows.stat().st_size / 1e6:,.0f} MB, {len(os.sched_getaffinity(0))} cores", flush=True
    )
    results = {}
    for name in ("ours", "map"):
        if options.only in (None, name):
            results[name] = measured(name, rows, tokenizer, work / name)
            print(line(name, results[name], options.rows), flush=True)
    if len(results) == 2:
        same = all(results["ours"][key] == results["map"][key] for key in ("tokens", "checksum"))
        wall, cpu = (results["map"][key] / results["ours"][key] for key in ("seconds", "cpu_seconds"))
        print(f"same tokens: {same}; ours is {wall:.2f} times as fast, and takes 1/{cpu:.2f} of the processor time")
        if not same:
            sys.exit("the two did not come to the same tokens")
    if options.work is None:
        shutil.rmtree(work)


def generate(file: Path, rows: int) -> None:
    """Rows like alpaca's: an instruction, an input in two of five, an answer of 5 to 120 words."""
    draw = random.Random(0)  # noqa: S311 - test data
    with open(file, "w", encoding="utf-8") as out:
        for number in range(rows):
            row = {
                "instruction": sentence(draw, 4, 16),
                "input": sentence(draw, 5, 40) if number % 5 < 2 else "",
                "output": sentence(draw, 5, 120),
            }
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def sentence(draw: random.Random, fewest: int, most: int) -> str:
    """So many words."""
    return " ".join(draw.choices(WORDS, k=draw.randint(fewest, most))).capitalize() + "."


def tokenizer_folder(work: Path) -> Path:
    """Qwen3's tokenizer with its config, as a model folder has it."""
    sys.path.insert(0, str(HERE.parents[1] / "tests"))
    from support.tokenizer import qwen3_tokenizer_dir

    return Path(shutil.copytree(qwen3_tokenizer_dir(), work / "tokenizer", dirs_exist_ok=True))


def measured(name: str, rows: Path, tokenizer: Path, folder: Path) -> dict[str, float]:
    """Run one side, and watch its memory."""
    folder.mkdir()
    command = [sys.executable, str(HERE / f"{name}.py"), str(rows), str(tokenizer), str(folder)]
    begin, used = time.perf_counter(), cpu_seconds()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = [0]
    watcher = threading.Thread(target=watch, args=(process.pid, peak))
    watcher.start()
    answer, _ = process.communicate()
    seconds, used = time.perf_counter() - begin, cpu_seconds() - used
    watcher.join()
    if process.returncode:
        sys.exit(f"{name} failed")
    return {**json.loads(answer.splitlines()[-1]), "seconds": seconds, "cpu_seconds": used, "peak_bytes": peak[0]}


def cpu_seconds() -> float:
    """Processor time of all processes that this one has started and waited for, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def watch(pid: int, peak: list[int]) -> None:
    """Keep the largest memory of a process and all below it, until it ends."""
    try:
        top = psutil.Process(pid)
        while top.is_running() and top.status() != psutil.STATUS_ZOMBIE:
            peak[0] = max(peak[0], sum(map(memory, [top, *top.children(recursive=True)])))
            time.sleep(LOOK_SECONDS)
    except psutil.NoSuchProcess:
        pass


def memory(process: psutil.Process) -> int:
    """Bytes of a process, its share of what is shared."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def line(name: str, result: dict[str, float], rows: int) -> str:
    """One side's result."""
    return (
        f"{name:5} {result['seconds']:8.1f} s {rows / result['seconds']:9,.0f} rows/s; processor "
        f"{result['cpu_seconds']:8.1f} s {rows / result['cpu_seconds']:7,.0f} rows/s; {result['tokens']:,} tokens; "
        f"peak {result['peak_bytes'] / 2**30:.2f} GiB"
    )


if __name__ == "__main__":
    main()
