"""Rows of the fault table, as JSON and as Markdown."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HEAD = "| fault | cause named in status | after | decision | result | left behind |"
LINE = "|---|---|---:|---|---|---|"
LONGEST = 150


@dataclass
class Row:
    """What became of one fault; None: the story did not get that far."""

    name: str
    title: str
    named: str | None = None
    """What the status said."""
    is_named: bool = False
    named_seconds: float | None = None
    """From the fault to the status that names it."""
    decision: str | None = None
    is_decision_right: bool = False
    result: str | None = None
    is_result_right: bool = False
    left: list[str] = field(default_factory=list)
    """What was still there of the run after it was deleted."""
    is_clean: bool = False
    trouble: str | None = None
    """What was expected and did not come."""
    seconds: float | None = None
    """Of the whole story."""
    commit: str = ""
    date: str = ""

    @property
    def is_right(self) -> bool:
        """Whether every column is."""
        return self.is_named and self.is_decision_right and self.is_result_right and self.is_clean


def merged(file: Path, rows: list[Row], order: Sequence[str]) -> list[Row]:
    """The rows in `file`, with these in the place of older ones of the same name; written back, in that order."""
    known = {row.name: row for row in (*read(file), *rows)}
    found = sorted(known.values(), key=lambda row: order.index(row.name) if row.name in order else len(order))
    file.write_text(json.dumps([asdict(row) for row in found], indent=1, ensure_ascii=False) + "\n")
    return found


def read(file: Path) -> list[Row]:
    """The rows in `file`; none when there is no such file."""
    if not file.exists():
        return []
    found: list[dict[str, Any]] = json.loads(file.read_text())
    return [Row(**each) for each in found]


def markdown(rows: list[Row]) -> str:
    """The table, and a line for each row that is not right."""
    lines = [HEAD, LINE, *(_line(row) for row in rows)]
    right = sum(row.is_right for row in rows)
    lines += ["", f"{right} of {len(rows)} rows are right in every column."]
    for row in rows:
        if not row.is_right:
            lines.append(f"- {row.title}: {_short(row.trouble or ', '.join(row.left) or 'see the columns')}")
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    after = "" if row.named_seconds is None else f"{row.named_seconds:.1f} s"
    cells = [
        row.title,
        _cell(row.is_named, row.named),
        after,
        _cell(row.is_decision_right, row.decision),
        _cell(row.is_result_right, row.result),
        _cell(row.is_clean, ", ".join(row.left) or "nothing"),
    ]
    return f"| {' | '.join(cells)} |"


def _cell(is_right: bool, text: str | None) -> str:
    return f"{'✓' if is_right else '✗'} {_short(text or '')}".strip()


def _short(text: str) -> str:
    plain = " ".join(text.split()).replace("|", "/")
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"
