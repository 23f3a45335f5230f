"""Takes guards out, one at a time, and sees the tests that guard them fail.

usage: python -m mutations [--list] [WORD ...]      a WORD picks the mutations whose guard, name or file contains it

Every test concerned must pass on an unchanged copy first. A mutation that no longer applies, or that no test notices,
is an error.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mutations import (
    adapters,
    attention,
    checkpoints,
    data,
    export,
    loss,
    methods,
    operator_side,
    options,
    push,
    stability,
    survival,
    trial,
)
from mutations.mutation import Mutation, StaleMutationError

CATALOGUE: list[Mutation] = [
    *data.MUTATIONS,
    *attention.MUTATIONS,
    *loss.MUTATIONS,
    *adapters.MUTATIONS,
    *methods.MUTATIONS,
    *checkpoints.MUTATIONS,
    *stability.MUTATIONS,
    *export.MUTATIONS,
    *options.MUTATIONS,
    *operator_side.MUTATIONS,
    *push.MUTATIONS,
    *survival.MUTATIONS,
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
        tests = sorted({test for each in chosen for test in each.tests})
        control = trial.run_tests(root, tests, until_first=False)
        if control.problem:
            print(f"without any mutation:\n{control.problem}")
            return 1
        print(f"without any mutation {len(control.passed)} tests pass and {len(control.failures)} fail\n", flush=True)
        noticed = [_try(each, root, control) for each in chosen]
    print(f"\n{sum(noticed)} of {len(chosen)} mutations were noticed")
    return 0 if all(noticed) else 1


def _try(mutation: Mutation, root: Path, control: trial.Result) -> bool:
    """Print a row of the table: guard | mutation | verdict | time."""
    began = time.monotonic()
    is_noticed, verdict = _verdict(mutation, root, control)
    row = (mutation.guards, mutation.name, verdict.replace("|", "/"), f"{time.monotonic() - began:.0f} s")
    print(f"| {' | '.join(row)} |", flush=True)
    return is_noticed


def _verdict(mutation: Mutation, root: Path, control: trial.Result) -> tuple[bool, str]:
    if broken := control.fails(mutation.tests):
        return False, f"NO VERDICT: {broken[0]} fails without it"
    try:
        before = mutation.apply(root)
    except StaleMutationError as error:
        return False, f"STALE: {error}"
    try:
        return judged(mutation, trial.run_tests(root, mutation.tests, until_first=True))
    finally:
        mutation.revert(root, before)


def judged(mutation: Mutation, result: trial.Result) -> tuple[bool, str]:
    """Whether the tests noticed it for the right reason, and what to say of it."""
    if result.problem:
        return False, f"NO VERDICT: {result.problem}"
    if not result.failures:
        return False, f"NOT NOTICED by {len(result.passed)} tests"
    node, message = next(iter(result.failures.items()))
    told = f"{node.partition('::')[2]}: {' '.join(message.split())[:200]}"
    if mutation.shows.lower() not in message.lower():
        return False, f"FAILED OTHERWISE than with {mutation.shows!r}: {told}"
    return True, told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
