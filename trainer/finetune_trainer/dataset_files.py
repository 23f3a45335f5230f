"""Which files of a folder, a repository or a bucket hold the rows that are meant."""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from finetune_trainer.data.input_files import GZIP_SUFFIX
from finetune_trainer.data.readers import SUFFIXES

_WILD = re.compile(r"[*?]")
_SPLIT_WORDS = "train|training|test|testing|valid|validation|val|dev|eval|evaluation"
_TRAIN = re.compile(r"(^|[/_.-])(train|training)([/_.-]|$)", re.IGNORECASE)
_OTHER_SPLIT = re.compile(rf"(^|[/_.-])({_SPLIT_WORDS})([/_.-]|$)", re.IGNORECASE)


def is_pattern(path: str) -> bool:
    """Whether a path stands for any number of files."""
    return _WILD.search(path) is not None


def fixed_part(pattern: str) -> str:
    """The folder below which everything lies that a pattern can match; "" if that is the top."""
    return pattern[: _WILD.search(pattern).start()].rpartition("/")[0] if is_pattern(pattern) else pattern  # type: ignore[union-attr]


def matching(pattern: str, paths: Iterable[str]) -> list[str]:
    """The paths that a pattern matches, sorted: `*` and `?` stay within a name, `**/` goes through any folders."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    compiled = re.compile("".join(meaning.get(part, re.escape(part)) for part in parts))
    return sorted(path for path in paths if compiled.fullmatch(path))


def row_files(paths: Iterable[str]) -> list[str]:
    """Those that hold rows by their names, sorted; hidden ones, and paths that lead upwards, are left aside."""
    return sorted(path for path in paths if _holds_rows(path))


def train_files(paths: Iterable[str]) -> list[str]:
    """The files of the train split, as far as names tell; [] if they do not.

    A split is one file, or the files of one folder that have one ending: those with "train" in their names, or all
    where no name has the word for a split.
    """
    rows = row_files(paths)
    training = [path for path in rows if _TRAIN.search(path)]
    if not training and not any(_OTHER_SPLIT.search(path) for path in rows):
        training = rows
    kinds = {(PurePosixPath(path).parent, _ending(path)) for path in training}
    return training if len(kinds) == 1 else []


def shown(paths: Sequence[str], *, at_most: int = 10) -> str:
    """Some of the paths, for an error."""
    more = f" and {len(paths) - at_most:,} more" if len(paths) > at_most else ""
    return ", ".join(paths[:at_most]) + more


def endings() -> str:
    """What names of files of rows end with, for an error."""
    return f"{', '.join(SUFFIXES)}, or with {GZIP_SUFFIX} behind it"


def _holds_rows(path: str) -> bool:
    parts = PurePosixPath(path).parts
    is_hidden = any(part.startswith(".") for part in parts)
    return not is_hidden and path.removesuffix(GZIP_SUFFIX).endswith(SUFFIXES)


def _ending(path: str) -> str:
    return PurePosixPath(path.removesuffix(GZIP_SUFFIX)).suffix
