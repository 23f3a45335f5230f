"""The parity table: every way to spread a step over ranks, against one process that does the whole step.

A cell is a strategy x a method x a cut of the global batch x packed or not. It holds the largest relative deviation,
over the steps of a short run, of the loss and of the gradient norm before clipping.
"""

import itertools
import json
import operator
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from finetune_contract import RunConfig
from finetune_trainer import recipe
from finetune_trainer.distributed import World
from finetune_trainer.running import Position
from multiproc.cases import FULL, LORA, config, write_tokens
from support.tiny import ODD_VOCAB_SIZE, REAL_VOCAB_SIZE, odd_model_dir, tiny_model_dir

STRATEGIES: Final[dict[str, dict[str, Any]]] = {
    "DDP": {"type": "DDP"},
    "FSDP2": {"type": "FSDP"},
    "ZeRO-1": {"type": "DeepSpeed", "stage": 1},
    "ZeRO-2": {"type": "DeepSpeed", "stage": 2},
    "ZeRO-3": {"type": "DeepSpeed", "stage": 3},
    "ZeRO-3+offload": {"type": "DeepSpeed", "stage": 3, "offload_optimizer": "CPU", "offload_parameters": "CPU"},
}
METHODS: Final[dict[str, dict[str, Any]]] = {"LoRA": LORA, "Full": FULL}
CUTS: Final = {"1x4": (1, 4, 1), "2x2": (1, 2, 2), "4x1": (1, 1, 4)}
"""Ranks x accumulation -> micro-batch, accumulation, ranks."""
LAYOUTS: Final = ("packed", "unpacked")

STEPS: Final = 3
SEQUENCES: Final = 9
"""Steps of 4, 4 and 1 sequences: in the last one most micro-batches, and on most cuts some ranks, are empty."""
LOSS_TOLERANCE: Final = 5e-6
NORM_TOLERANCE: Final = 2e-5
WHY: Final = """\
Everything is fp32, whose numbers are rounded by up to 6e-8 of their size, so what remains is the order of sums; AdamW,
which divides a gradient by its own size, hands that on to the next step. The tolerances are about five times what is
seen. A divisor that is wrong by one token of a step shows as 1e-2, weight decay that one strategy forgot as 1e-4."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One way to do the same steps."""

    strategy: str
    method: str
    cut: str
    layout: str

    @property
    def ranks(self) -> int:
        """How many take part."""
        return CUTS[self.cut][2]

    def __str__(self) -> str:
        return "-".join((self.strategy, self.method, self.cut, self.layout))


CELLS: Final = sorted(
    (Cell(*values) for values in itertools.product(STRATEGIES, METHODS, CUTS, LAYOUTS)),
    key=operator.attrgetter("ranks"),
)


@dataclass(frozen=True, slots=True)
class Course:
    """What a run reported after each step."""

    losses: tuple[float, ...]
    norms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Deviation:
    """Largest relative difference to one process."""

    loss: float
    norm: float

    @classmethod
    def of(cls, found: Course, expected: Course) -> "Deviation":
        """Over all steps."""
        return cls(_largest(found.losses, expected.losses), _largest(found.norms, expected.norms))


def _largest(found: tuple[float, ...], expected: tuple[float, ...]) -> float:
    return max(abs(one - other) / other for one, other in zip(found, expected, strict=True))


class Inputs:
    """Models and tokens: the real vocabulary for LoRA on packed rows, elsewhere the odd one, which is stricter."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._odd, self._real = odd_model_dir(folder), tiny_model_dir(folder, "real")
        self._real_tokens = self._tokens("packed", REAL_VOCAB_SIZE)
        self._odd_tokens = {layout: self._tokens(layout, ODD_VOCAB_SIZE) for layout in LAYOUTS}

    def _tokens(self, layout: str, vocab_size: int) -> Path:
        return write_tokens(
            self._folder / f"{layout}-{vocab_size}", vocab_size=vocab_size, training=SEQUENCES, validation=0,
            most_documents=4 if layout == "packed" else 1,
        )  # fmt: skip

    def run(self, method: str, layout: str, name: str, **changes: Any) -> RunConfig:
        """STEPS steps of a method."""
        is_real = (method, layout) == ("LoRA", "packed")
        model, tokens = (self._real, self._real_tokens) if is_real else (self._odd, self._odd_tokens[layout])
        return config(
            self._folder / name, model, tokens, method=METHODS[method], epochs=1, max_steps=STEPS,
            checkpoint={"every_steps": 1000, "keep": 1}, **changes,
        )  # fmt: skip

    def of(self, cell: Cell) -> RunConfig:
        """The run of a cell."""
        return self.run(
            cell.method, cell.layout, str(cell), parallelism=STRATEGIES[cell.strategy], batch=CUTS[cell.cut]
        )


class StopAfter:
    """Told to stop once so many steps are done: what comes after them, the export, is no part of the comparison."""

    seconds = 0.0

    def __init__(self, steps: int, position: Position) -> None:
        self._steps, self._position = steps, position

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._position.step >= self._steps


def course(world: World, run: RunConfig) -> Course | None:
    """Train; rank 0 tells what was reported."""
    position = Position()
    Path(run.output_dir).mkdir(parents=True, exist_ok=True)
    recipe.run(run, world, StopAfter(STEPS, position), position)
    if not world.is_main:
        return None
    file = Path(run.output_dir) / "attempts" / "1" / "losses.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return Course(tuple(line["loss"] for line in lines), tuple(line["grad_norm"] for line in lines))


def table(found: Mapping[Cell, Deviation]) -> str:
    """Both deviations of every cell, and the largest; a cell that was not computed is empty."""
    columns = list(itertools.product(CUTS, LAYOUTS))
    rows = [["", "", *(f"{cut} {layout}" for cut, layout in columns)]]
    for strategy, method in itertools.product(STRATEGIES, METHODS):
        cells = [found.get(Cell(strategy, method, cut, layout)) for cut, layout in columns]
        rows.append([strategy, method, *(f"{each.loss:.0e} / {each.norm:.0e}" if each else "" for each in cells)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    loss, norm = max(each.loss for each in found.values()), max(each.norm for each in found.values())
    largest = (
        f"Largest: loss {loss:.1e} (allowed {LOSS_TOLERANCE:g}), gradient norm {norm:.1e} (allowed {NORM_TOLERANCE:g})"
    )
    return "\n".join([*lines, "", f"{largest}; {len(found)} cells."])


def page(found: Mapping[Cell, Deviation]) -> str:
    """docs/parity.md."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed", "transformers", "peft"))
    machine = f"{os.cpu_count()} cores of {_processor()} with gloo"
    return f"""\
# One step, however it is spread over ranks

Every cell: the largest relative deviation, over {STEPS} steps, of the loss / of the gradient norm before clipping, from
one process that does the whole step in one pass. Columns: ranks x accumulation, and whether a sequence holds several
documents. The global batch is 4 sequences of uneven length; the last step has one, so that ranks go empty. A tiny
Qwen3: for LoRA on packed rows with the real vocabulary of {REAL_VOCAB_SIZE:,}, elsewhere with one of
{ODD_VOCAB_SIZE:,}, which no number of ranks divides.

{table(found)}

{WHY}

Measured on {machine}, Python {platform.python_version()}, {packages}:

    pytest tests/multiproc/test_parity_table.py --write-parity
"""


def _processor() -> str:
    names = (
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    )
    return next(names, platform.machine())
