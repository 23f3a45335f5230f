"""What counts as a falling and as a rising loss."""

import pytest

from finetune_trainer.measuring.loss_trend import FEWEST, HALF, LossTrend, relative_change


def after(losses: list[float], first_step: int = 1) -> LossTrend:
    trend = LossTrend()
    for step, loss in enumerate(losses, first_step):
        trend.add(step, loss)
    return trend


def noisy(mean: float, count: int) -> list[float]:
    """A loss that jumps by 0.2 to both sides: means of 50 of them have a standard error of 0.0404 from each other."""
    return [mean + (0.2 if step % 2 else -0.2) for step in range(count)]


def test_a_rise_is_measured_against_the_older_half() -> None:
    assert after(noisy(1.0, HALF) + noisy(1.5, HALF)).recent == pytest.approx(0.5)
    assert after([2.0] * HALF + [1.0] * HALF).recent == -0.5
    assert after([9.0] * 100 + [1.0] * HALF + [1.5] * HALF).recent == 0.5, "older ones are forgotten"


def test_noise_is_no_trend() -> None:
    assert after(noisy(1.0, 2 * HALF)).recent == 0.0
    assert after(noisy(1.0, HALF) + noisy(1.121, HALF)).recent == 0.0
    assert after(noisy(1.0, HALF) + noisy(1.122, HALF)).recent == pytest.approx(0.122)
    assert after(noisy(1.0, HALF) + noisy(0.878, HALF)).recent == pytest.approx(-0.122)


def test_too_few_steps_say_nothing() -> None:
    assert after([1.0] * (2 * FEWEST - 1)).recent is None
    assert after([1.0] * (2 * FEWEST)).recent == 0.0
    assert relative_change([1.0] * FEWEST, [2.0] * (FEWEST - 1)) is None


def test_the_beginning_is_remembered() -> None:
    assert after([4.0] * HALF + [2.0] * 500).since_start == -0.5
    assert after(noisy(3.0, 400)).since_start == 0.0
    assert after([4.0] * (2 * HALF - 1)).since_start is None


def test_a_resumed_attempt_does_not_know_the_beginning() -> None:
    assert after([2.0] * 500, first_step=101).since_start is None
    assert after([2.0] * 500, first_step=2).since_start is None


def test_a_loss_of_zero_divides_nothing() -> None:
    assert relative_change([0.0] * FEWEST, [1.0] * FEWEST) == 0.0
