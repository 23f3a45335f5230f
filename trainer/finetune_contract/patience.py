"""How long a run may stand still before it counts as hung, by what it is doing.

The trainer watches itself by this, and the operator watches trainers that cannot, so the limits stand here once. What
counts is that nothing moves at all: a rank moves with every pass, every tensor that is read, every file that is
written, so that what is merely slow is never called a hang.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from finetune_contract.reports import Stage

STEP_FACTOR: Final = 10
"""A step may take so many times the median: long sequences, a compilation in between, a look at the volume."""
FIRST_STEP_SECONDS: Final = 1800
"""The first step of an attempt compiles, tunes kernels, and connects every rank with every other."""
QUIET_SECONDS: Final[Mapping[Stage, int]] = MappingProxyType(
    {
        Stage.LOADING: 1800,
        Stage.SAVING: 3600,
        Stage.EXPORTING: 3600,
    }
)
"""Between two signs of life where no steps are done. A file of weights has up to 2 GiB, which a bad volume takes in
half an hour; while a model is loaded, a sign comes with every tensor."""


def patience_seconds(stage: Stage, step_seconds: float | None, hang_timeout_seconds: float) -> float:
    """How long a rank in `stage` may stand still.

    `step_seconds` is the median of this attempt's steps, None before the first of them. The user's
    `hang_timeout_seconds` is the least for everything, and all there is to it where steps are short.
    """
    if stage in QUIET_SECONDS:
        return max(hang_timeout_seconds, QUIET_SECONDS[stage])
    if stage is Stage.DONE:
        return hang_timeout_seconds
    if step_seconds is None:
        return max(hang_timeout_seconds, FIRST_STEP_SECONDS)
    return max(hang_timeout_seconds, STEP_FACTOR * step_seconds)


def phase_words(stage: Stage, step: int, step_seconds: float | None) -> str:
    """What a rank that has done `step` steps is in the middle of: `step 13`, `the first step of this attempt`."""
    if stage is Stage.TRAINING:
        return f"step {step + 1}" if step_seconds is not None else f"step {step + 1}, the first of this attempt"
    return f"stage {stage} after step {step}"
