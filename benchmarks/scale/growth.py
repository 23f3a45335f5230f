"""How cost grows with the number of runs: one plot of all results."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

PANELS = (
    ("create to pods, p99", "seconds", lambda found: found["create_to_pods_seconds"]["p99"]),
    ("create to done, p99", "seconds", lambda found: found["create_to_done_seconds"]["p99"]),
    ("processor time of its own processes, per run", "seconds", lambda found: found["cpu_seconds"] / found["runs"]),
    ("memory of its own processes, peak", "MiB", lambda found: sum(found["peak_mib"])),
)


def plot(results: Path, file: Path) -> None:
    """One panel for each cost, one line for each contender; runs of one pod, the newest result of each size."""
    newest: dict[tuple[str, int], dict[str, Any]] = {}
    for whole in sorted(
        (json.loads(each.read_text()) for each in results.glob("lives-*.json")), key=lambda it: it["at"]
    ):
        if not whole["throttled"]:
            newest |= {(each["who"], each["runs"]): each for each in whole["found"] if each["pods_per_run"] == 1}
    pyplot.rcParams.update({"svg.hashsalt": "scale", "font.size": 9})
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), layout="constrained")
    for axis, (title, unit, value) in zip(axes.flat, PANELS, strict=True):
        for who in sorted({name for name, _ in newest}):
            points = sorted((runs, value(each)) for (name, runs), each in newest.items() if name == who)
            if any(height for _, height in points):
                axis.plot(*zip(*points, strict=True), marker="o", label=who)
        axis.set(title=title, xlabel="runs created at once", ylabel=unit, xlim=(0, None), ylim=(0, None))
        axis.grid(alpha=0.3)
    axes.flat[0].legend()
    figure.savefig(file, metadata={"Date": None})
