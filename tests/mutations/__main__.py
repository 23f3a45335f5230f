"""Takes guards out, one at a time, and sees the tests that guard them fail.

usage: python -m mutations [--list] [WORD ...]      a WORD picks the mutations whose guard, name or file contains it

First every test concerned must pass on an unchanged copy. A mutation that no longer applies, or that no test notices,
is an error.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mutations import adapters, attention, checkpoints, data, loss, operator_side, stability, trial
from mutations.mutation import Mutation, StaleMutationError

CATALOGUE: list[Mutation] = [
    *data.MUTATIONS,
    *attention.MUTATIONS,
    *loss.MUTATIONS,
    *adapters.MUTATIONS,
    *checkpoints.MUTATIONS,
    *stability.MUTATIONS,
    *operator_side.MUTATIONS,
]


def main(arguments: Sequence[str]) -> int:
    """Try the chosen mutations; 0 when every one was noticed."""
    words = [word for word in arguments if not word.startswith("-")]
    chosen = [each for each in CATALOGUE if all(word in f"{each.guards} {each.name} {each.file}" for word in words)]
    if "--list" in arguments:
        print("\n".join(f"{each.guards} | {each.name} | {each.file}" for each in chosen))
        return 0
    trial.import_heavy()
    with trial.copied_repository() as root:
        control = trial.run_tests(root, sorted({test for each in chosen for test in each.tests}))
        if control.failures or control.problem:
            print(f"without any mutation:\n{control.problem}", *control.failures, sep="\n")
            return 1
        print(f"{control.passed} tests pass without a mutation\n", flush=True)
        noticed = [_try(each, root) for each in chosen]
    print(f"\n{sum(noticed)} of {len(chosen)} mutations were noticed")
    return 0 if all(noticed) else 1


def _try(mutation: Mutation, root: Path) -> bool:
    """Print a row of the table: guard | mutation | verdict."""
    began = time.monotonic()
    try:
        before = mutation.apply(root)
    except StaleMutationError as error:
        print(f"| {mutation.guards} | {mutation.name} | STALE: {error} |", flush=True)
        return False
    try:
        result = trial.run_tests(root, mutation.tests)
    finally:
        mutation.revert(root, before)
    noticed, verdict = judged(mutation, result)
    seconds = time.monotonic() - began
    print(f"| {mutation.guards} | {mutation.name} | {verdict} | {seconds:.0f} s |", flush=True)
    return noticed


def judged(mutation: Mutation, result: trial.Result) -> tuple[bool, str]:
    """Whether the tests noticed it for the right reason, and what to say of it."""
    if result.problem:
        return False, f"NO VERDICT: {result.problem}"
    if not result.failures:
        return False, f"NOT NOTICED by {result.passed} tests"
    fitting = [message for message in result.failures if mutation.shows in message]
    if not fitting:
        return False, f"FAILED OTHERWISE than {mutation.shows!r}: {result.failures[0][:300]}"
    return True, fitting[0].splitlines()[0][:160].replace("|", "/")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
