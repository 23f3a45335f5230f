"""The learning rate as a pure function of the step."""

import math

from finetune_contract import (
    ConstantSchedule,
    CosineSchedule,
    DecayShape,
    LinearSchedule,
    Schedule,
    WarmupStableDecaySchedule,
)


def learning_rate(step: int, *, total_steps: int, schedule: Schedule, peak: float) -> float:
    """Rate of update `step`, counted from 1.

    Rises over the warm-up, is `peak` at the next update, and falls so that it would reach its final value one update
    after the last: no update is spent on a rate of zero.
    """
    warmup = warmup_steps(schedule, total_steps)
    if step <= warmup:
        return peak * step / (warmup + 1)
    if isinstance(schedule, ConstantSchedule):
        return peak
    fall = max(_fall_steps(schedule, total_steps, warmup), 1)
    done = (step - 1 - (total_steps - fall)) / fall
    if done <= 0:
        return peak
    return peak * (schedule.final_ratio + (1 - schedule.final_ratio) * _left(schedule, done))


def warmup_steps(schedule: Schedule, total_steps: int) -> int:
    """Updates before the peak; fewer than all of them, whatever was asked for."""
    wanted = schedule.warmup_steps
    steps = int(schedule.warmup_ratio * total_steps) if wanted is None else wanted
    return min(steps, total_steps - 1)


def _fall_steps(
    schedule: CosineSchedule | LinearSchedule | WarmupStableDecaySchedule, total_steps: int, warmup: int
) -> int:
    after_warmup = total_steps - warmup
    if isinstance(schedule, WarmupStableDecaySchedule):
        return min(math.ceil(round(schedule.decay_ratio * total_steps, 6)), after_warmup)
    return after_warmup


def _left(schedule: CosineSchedule | LinearSchedule | WarmupStableDecaySchedule, done: float) -> float:
    """Height of the rate between its peak, 1, and its final value, 0, when a share `done` of the fall is over."""
    shape = schedule.decay_shape if isinstance(schedule, WarmupStableDecaySchedule) else DecayShape(schedule.type)
    if shape is DecayShape.LINEAR:
        return 1 - done
    if shape is DecayShape.SQUARE_ROOT:
        return 1 - math.sqrt(done)
    return (1 + math.cos(math.pi * done)) / 2
