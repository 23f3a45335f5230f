"""Many runs at once, on a real API server with real controllers and KWOK's pods, beside others that do the same.

usage: python benchmarks/scale lives [--runs 1000 ...] [--nodes 1] [--against jobs kubeflow] [--idle-seconds 130]
       python benchmarks/scale fan-in [--runs 1000] [--seconds 120]
       python benchmarks/scale plot

`lives`: objects are created as fast as 16 clients can, and each is followed to its end; first plain Indexed Jobs, then
Kubeflow Trainer, then this project, one after the other on the same control plane. `fan-in`: runs that go on training.
`plot`: growth.svg from all results. Results lie in results/, one JSON file for each call. Builds what it needs, minutes
at first. `--throttled` keeps Kubernetes' own rate limits, under which Kubernetes is what everybody waits for.
"""

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

RESULTS = HERE / "results"


def main() -> None:
    """Do one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("lives", "fan-in", "plot"))
    parser.add_argument("--runs", type=int, nargs="+", default=[1000])
    parser.add_argument("--nodes", type=int, default=1, help="pods of a run, with one GPU each")
    parser.add_argument("--against", nargs="*", choices=("jobs", "kubeflow"), default=["jobs", "kubeflow"])
    parser.add_argument("--idle-seconds", type=float, default=130, help="two resyncs and a little")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--throttled", action="store_true")
    options = parser.parse_args()
    if options.what == "plot":
        import growth

        growth.plot(RESULTS, HERE / "growth.svg")
        return
    found = _lives(options) if options.what == "lives" else _fan_in(options)
    _keep(options, found)


def _lives(options: argparse.Namespace) -> list[dict[str, Any]]:
    import lives
    from arena import arena

    with arena(1.0, throttled=options.throttled) as place:
        return lives.measure_all(place, options.runs, options.nodes, options.against, options.idle_seconds)


def _fan_in(options: argparse.Namespace) -> list[dict[str, Any]]:
    import fan_in
    from arena import arena

    with arena(None) as place:
        return [fan_in.measure(place, options.runs[0], options.seconds)]


def _keep(options: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    """Print what was found, and write it beside this file."""
    import usage

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=True
    )
    now = datetime.now(UTC)
    whole = {
        "at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": f"python benchmarks/scale {' '.join(sys.argv[1:])}",
        "commit": commit.stdout.strip(),
        "throttled": options.throttled,
        "machine": usage.machine(),
        "found": found,
    }
    RESULTS.mkdir(exist_ok=True)
    size = f"{'-'.join(map(str, options.runs))}x{options.nodes}"
    (RESULTS / f"{options.what}-{size}-{now:%H%M}.json").write_text(json.dumps(whole, indent=1) + "\n")
    print(json.dumps(whole, indent=1))


if __name__ == "__main__":
    main()
