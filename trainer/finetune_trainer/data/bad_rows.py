"""Rows that cannot be trained on: refused with their lines, or left out and counted, as the run wants it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from finetune_contract import BadRowPolicy, BadRows
from finetune_trainer.data.errors import MAX_DETAILS, PreparationError, RowProblem
from finetune_trainer.data.input_files import InputFile
from finetune_trainer.data.spool import ShardFacts

DEFAULT_SHARE = 100
"""One row of so many may be left out where the run allows it and names no limit."""
MAX_LISTED = 1000
"""Bad rows that the details of a token cache name."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A bad row, numbered within its file."""

    file: str
    problem: RowProblem

    def __str__(self) -> str:
        return f"{self.file} {self.problem}"


def bad_rows(shards: Sequence[ShardFacts], files: Sequence[InputFile]) -> Iterator[BadRow]:
    """Those of each shard that were kept in words, file by file."""
    file, rows_before = -1, 0
    for facts in shards:
        if facts.file != file:
            file, rows_before = facts.file, 0
        for problem in sorted(facts.problems, key=lambda problem: problem.row):
            yield BadRow(files[file].name, replace(problem, row=rows_before + problem.row))
        rows_before += facts.rows


def check_bad_rows(shards: Sequence[ShardFacts], files: Sequence[InputFile], policy: BadRows) -> int:
    """How many rows are left out.

    Raises: PreparationError that counts all of them and names the first, if the policy does not allow so many, or if a
    file breaks off, which takes an unknown number of rows with it.
    """
    _check_whole(shards, files)
    count = sum(facts.bad_rows for facts in shards)
    overlong = sum(facts.overlong_rows for facts in shards)
    allowed = _allowed(policy, sum(facts.rows for facts in shards))
    if count <= allowed and not overlong:
        return count
    first = [bad for bad, _ in zip(bad_rows(shards, files), range(MAX_DETAILS), strict=False)]
    one_file = len({facts.file for facts in shards if facts.bad_rows}) == 1
    shown = [str(bad.problem if one_file else bad) for bad in first]
    rows = "1 row" if count == 1 else f"{count:,} rows"
    where = first[0].file if one_file else f"{len({facts.file for facts in shards if facts.bad_rows}):,} files"
    listed = "" if count <= len(first) else f"; the first {len(first)} are listed"
    remedy = _remedy(policy, count, allowed, overlong)
    raise PreparationError(
        first[0].problem.reason,
        f"dataset: {rows} of {where} cannot be trained on{listed}: {shown[0]}. {remedy}",
        details=shown,
    )


def _allowed(policy: BadRows, rows: int) -> int:
    if policy.policy is BadRowPolicy.REFUSE:
        return 0
    return policy.limit if policy.limit is not None else max(1, rows // DEFAULT_SHARE)


def _remedy(policy: BadRows, count: int, allowed: int, overlong: int) -> str:
    if policy.policy is BadRowPolicy.REFUSE:
        return "Correct or remove these rows, or set dataset.badRows to leave them out; nothing is left out silently."
    if overlong:
        return f"dataset.badRows does not pass over the {overlong:,} that are too long: dataset.overlong says Refuse."
    return (
        f"dataset.badRows.limit: {allowed:,} may be left out, and {count:,} would be; correct the rows, or raise the "
        "limit."
    )


def _check_whole(shards: Sequence[ShardFacts], files: Sequence[InputFile]) -> None:
    """Raises: PreparationError if a file could not be read to its end."""
    rows = dict.fromkeys(range(len(files)), 0)
    for facts in shards:
        rows[facts.file] += facts.rows
        if facts.broken:
            name, read = files[facts.file].name, rows[facts.file]
            place = f" in line {facts.broken.line:,}" if facts.broken.line else ""
            raise PreparationError(
                "BrokenFile",
                f"dataset: {name} breaks off{place}, behind row {read:,}: {facts.broken.text}. What follows cannot be "
                "read, so no policy for bad rows passes over it; mend the file, or bring the rows as JSON lines, one "
                "of which may be broken without the others",
            )
