"""Loss and gradient norm are those of one process, however a step is spread: every strategy, method, cut and layout.

The table is printed at the end of the session; `--write-parity` also writes docs/parity.md.
"""

from pathlib import Path

import pytest

from finetune_contract import RunConfig
from multiproc import parity
from multiproc.parity import CELLS, LOSS_TOLERANCE, NORM_TOLERANCE, Cell, Course, Deviation, Inputs, course
from multiproc.ranks import on_ranks


@pytest.fixture(scope="module")
def inputs(folder: Path) -> Inputs:
    """Models and tokens of the table."""
    return Inputs(folder / "parity")


@pytest.fixture(scope="module")
def expected(folder: Path, inputs: Inputs) -> dict[tuple[str, str], Course]:
    """What one process does, by method and layout: the whole step in one pass."""
    found = {}
    for method in parity.METHODS:
        for layout in parity.LAYOUTS:
            run = inputs.run(method, layout, f"one-{method}-{layout}", batch=(4, 1, 1))
            found[method, layout] = _course(run, 1, folder)
    return found


def _course(run: RunConfig, ranks: int, folder: Path) -> Course:
    (answer, *_) = on_ranks(ranks, course, run, log=folder / "parity-ranks")
    assert answer is not None
    return answer


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_step_is_that_of_one_process(
    cell: Cell, inputs: Inputs, expected: dict[tuple[str, str], Course], folder: Path, deviations: dict[Cell, Deviation]
) -> None:
    found = _course(inputs.of(cell), cell.ranks, folder)
    deviations[cell] = Deviation.of(found, expected[cell.method, cell.layout])
    assert len(found.losses) == parity.STEPS
    assert deviations[cell].loss <= LOSS_TOLERANCE
    assert deviations[cell].norm <= NORM_TOLERANCE
