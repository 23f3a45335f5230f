"""Which format the rows of a file have, found once from its first rows.

A file has one format. Rows of another one among them are an accident more often than not, such as two files joined by
hand, and would be trained in another way than was meant (`text` is learnt from end to end). So they are named, with the
format they look like; another file of the same dataset may well have another format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_contract import FORMAT_COLUMNS, DatasetConfig, DatasetFormat
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.formats.conversation import RowError
from finetune_trainer.data.formats.values import seen
from finetune_trainer.data.row import Row

_LOSS_WEIGHTS = ("weight", "weights", "sample_weight", "loss_weight")
_HINTS = (
    (("chosen", "rejected"), "; pairs of a chosen and a rejected answer teach preferences, which is another training"),
    (("conversation",), "; for ShareGPT rows set dataset.columns to {conversations: conversation}"),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The format of a file's rows, and which of their columns stand for the format's own."""

    format: DatasetFormat
    """AUTO: not one of the first rows could be read, so it is not known."""
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_chat(self) -> bool:
        """Whether rows are rendered with the chat template."""
        return self.format is not DatasetFormat.TEXT

    def fitted(self, value: Any) -> Mapping[str, Any]:
        """A row's columns under the format's own names.

        Raises: RowError if they are not this format's.
        """
        if not isinstance(value, Mapping):
            raise RowError(f"the row is {seen(value)}; expected an object")
        if self.format is DatasetFormat.AUTO:
            raise RowError(
                "none of the file's first rows could be read, so its format is not known; set dataset.format"
            )
        columns = renamed(value, self.columns)
        missing = [name for name in FORMAT_COLUMNS[self.format].required if columns.get(name) is None]
        if missing:
            raise RowError(self._without(missing, columns))
        for name in _LOSS_WEIGHTS:
            if columns.get(name) not in (None, 1):
                raise RowError(
                    f"{name} is {seen(columns[name])}; rows have no weights of their own: take the column away, or put "
                    "the rows into several files and give those weights in dataset.mix"
                )
        return columns

    def _without(self, missing: Sequence[str], columns: Mapping[str, Any]) -> str:
        names = [f"{name} (column {self.columns[name]})" if name in self.columns else name for name in missing]
        found = sorted(str(name) for name, value in columns.items() if value is not None)
        others = [each for each in _fitting(found) if each is not self.format]
        hint = f"; it looks like {others[0]}, and the file is read as {self.format}" if others else ""
        return f"no {' and no '.join(names)}; columns found: {', '.join(found) or 'none'}{hint}"


def found_layout(first_rows: Sequence[Row], config: DatasetConfig, file: str) -> Layout:
    """The layout of the file that begins with these rows; those that cannot be read are passed over.

    Raises: PreparationError if the columns fit no format, or more than one, or a column of `config.columns` is nowhere.
    """
    readable = [row.value for row in first_rows if row.problem is None and isinstance(row.value, Mapping)]
    if not readable:
        return Layout(config.format, config.columns)
    for ours, theirs in config.columns.items():
        if not any(theirs in row for row in readable):
            raise PreparationError(
                "UnknownColumns",
                f"dataset.columns.{ours}: the first {len(readable)} rows of {file} have no column {theirs!r}; columns "
                f"found: {_names(readable[0])}; correct the name, or write null where a row has none",
            )
    if config.format is not DatasetFormat.AUTO:
        return Layout(config.format, config.columns)
    return Layout(_detected(renamed(readable[0], config.columns), file), config.columns)


def renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The row under the format's own names; a column that stands for one of them hides the row's own of that name."""
    if not columns:
        return row
    taken = {*columns, *columns.values()}
    kept = {name: value for name, value in row.items() if name not in taken}
    return {**kept, **{ours: row.get(theirs) for ours, theirs in columns.items()}}


def _detected(columns: Mapping[str, Any], file: str) -> DatasetFormat:
    fitting = _fitting(columns)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise PreparationError(
            "AmbiguousColumns",
            f"dataset.format: Auto cannot choose for {file} with columns {_names(columns)}; set it to "
            f"{' or '.join(fitting)}",
        )
    hint = next((hint for names, hint in _HINTS if set(names) <= columns.keys()), "")
    expected = ", ".join(f"{each} ({', '.join(FORMAT_COLUMNS[each].required)})" for each in FORMAT_COLUMNS)
    raise PreparationError(
        "UnknownColumns",
        f"dataset.format: {file} has columns {_names(columns)}; expected one of {expected}; other names can be given "
        f"in dataset.columns, such as {{instruction: question, output: answer}}{hint}",
    )


def _fitting(columns: Mapping[str, Any] | Sequence[str]) -> list[DatasetFormat]:
    """Formats whose required columns are all there; a text beside them renders the same, as in alpaca's own."""
    fitting = [each for each, known in FORMAT_COLUMNS.items() if set(known.required) <= set(columns)]
    return fitting if fitting == [DatasetFormat.TEXT] else [each for each in fitting if each is not DatasetFormat.TEXT]


def _names(columns: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, columns))) or "none"
