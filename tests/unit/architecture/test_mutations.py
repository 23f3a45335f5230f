"""The catalogue of guards that are taken out on purpose speaks of the code as it is; `make mutations` runs it."""

from pathlib import Path

import pytest

from mutations.__main__ import CATALOGUE
from mutations.mutation import Mutation

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("mutation", CATALOGUE, ids=lambda each: each.name)
def test_what_is_taken_out_is_there_once_and_so_are_the_tests(mutation: Mutation) -> None:
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1
    for node in mutation.tests:
        file, _, test = node.partition("::")
        assert f"def {test.partition('[')[0]}" in (ROOT / file).read_text(encoding="utf-8")
