"""Whether an artifact is what was trained, by what it answers.

Two comparisons, since each sees what the other cannot. In fp32 and part by part, against the model as the run builds
it from its checkpoint: exact, so that one wrong scale in one layer shows, whatever the precision of the run. And with
the logits of the model in training, on its own device and in its own precision: blurred by rounding, but the only
witness of what the training itself computed.

Shape letters: P tokens of the prompt, D hidden width, V vocabulary.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from transformers import Qwen3MoeConfig

from finetune_contract import Precision, RunConfig
from finetune_trainer.export.opened import Opened, layer_by_layer
from finetune_trainer.export.weights import ExportMismatchError
from finetune_trainer.model import load_config

log = logging.getLogger("finetune")

TOLERANCE: Final = {Precision.FP32: 1e-3, Precision.BF16: 0.1, Precision.FP16: 0.03}
"""Root mean square of the logits' difference to the model in training, in standard deviations of the logits. bf16 keeps
8 bits: 0.022 to 0.029 were measured for 28 layers of Qwen3-1.7B's shape on an H100, and rounding adds up with the root
of the depth."""
PART_TOLERANCE: Final = 1e-3
"""Of a part's update, in fp32. A module without its adapter differs by that module's share of the update, a wrong scale
by about all of it."""
FP32_NOISE: Final = 1e-5
"""Of a part's answer: what sums in another order come to."""
ROUTED: Final = 3
"""How much more a mixture of experts may differ: rounding that tips a router sends a token to another expert."""
SHARE_TOLERANCE: Final = 0.1
"""By how much the update in the logits may be larger or smaller than in training, beyond what rounding explains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How an artifact's logits compare with those of the model in training."""

    difference: float
    """Root mean square, in standard deviations of the logits."""
    update: float
    """What training changed, in the same unit."""
    share: float
    """Projection of the change seen in training on the artifact's own: 1 when it holds all of it, at the same scale."""
    margin: float
    """How far from 1 rounding may take `share`: four standard errors, with every token of the prompt as one sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An artifact between what training began with and what it came to."""

    base: Opened
    trained: Opened
    artifact: Opened
    is_exact: bool
    """Whether the artifact holds its weights unrounded."""


def check_parts(models: Comparison, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits [P, V] of base and artifact, fp32.

    Raises: ExportMismatchError at the first part of an exact artifact that answers otherwise than it was trained to.
    """
    answers: list[Tensor] = []
    for part, answers in layer_by_layer([models.base, models.trained, models.artifact], ids):
        before, expected, found = answers
        difference, update = _rms(found - expected), _rms(expected - before)
        if models.is_exact:
            if not difference <= PART_TOLERANCE * update + FP32_NOISE * _rms(expected):
                raise ExportMismatchError(
                    f"{part} of the reopened artifact answers differently: by {difference:.3g}, where training changed "
                    f"its answer by {update:.3g}"
                )
            answers[2] = expected  # else a router that is torn between two experts might tear the two models apart
    return answers[0], answers[2]


def likeness(base_PV: Tensor, found_PV: Tensor, trained_PV: Tensor) -> Likeness:
    """How `found_PV` compares with `trained_PV`, the logits of the model in training; `base_PV` are those before it."""
    unit = float(trained_PV.std())
    update_PV, seen_PV = found_PV - base_PV, trained_PV - base_PV
    size = float(update_PV.square().sum())
    share = float((seen_PV * update_PV).sum()) / size if size else math.nan
    unexplained = _rms(seen_PV - share * update_PV) if size else math.inf
    error = unexplained / (_rms(update_PV) * math.sqrt(len(update_PV))) if size else math.inf
    return Likeness(
        difference=_rms(found_PV - trained_PV) / unit, update=_rms(update_PV) / unit, share=share, margin=4 * error
    )


def tolerance(config: RunConfig, saved: torch.dtype = torch.float32) -> float:
    """How much the logits may differ from those of a training in `config`'s precision whose result is in `saved`."""
    rounded = {torch.float32: Precision.FP32, torch.bfloat16: Precision.BF16, torch.float16: Precision.FP16}[saved]
    is_mixture = isinstance(load_config(config.model_dir), Qwen3MoeConfig)
    return max(TOLERANCE[config.precision], TOLERANCE[rounded]) * (ROUTED if is_mixture else 1)


def check_logits(found: Likeness, allowed: float, what: str) -> None:
    """Raise when the artifact does not answer as the model in training does."""
    log.info(
        "%s reopened: logits differ by %.2g standard deviations (allowed %g); of the %.2g by which training changed "
        "them it holds %.3f (+-%.2g)", what, found.difference, allowed, found.update, found.share, found.margin,
    )  # fmt: skip
    if not found.difference <= allowed:
        raise ExportMismatchError(
            f"the exported {what} answers differently from the model in training: {found.difference:.3g} standard "
            f"deviations of its logits, {allowed:g} are allowed"
        )


def check_share(found: Likeness, what: str) -> None:
    """Raise when an unrounded artifact changes the logits by more or less than training did."""
    if abs(found.share - 1) > SHARE_TOLERANCE + found.margin:
        raise ExportMismatchError(
            f"the exported {what} holds {found.share:.3g} times the change that training made to the logits "
            f"(+-{found.margin:.2g} by rounding)"
        )


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
