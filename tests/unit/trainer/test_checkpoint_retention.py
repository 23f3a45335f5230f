"""Which checkpoints go, by properties."""

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.checkpoint.retention import Retention, superseded

STEPS = st.sets(st.integers(1, 60), min_size=1, max_size=12)
RETENTIONS = st.builds(
    Retention,
    keep=st.integers(1, 5),
    best_step=st.none() | st.integers(1, 60),
    good_step=st.none() | st.integers(-5, 60),
)


@given(STEPS, RETENTIONS)
def test_the_newest_the_best_and_the_good_one_stay_and_nothing_else(steps: set[int], retention: Retention) -> None:
    gone = superseded(steps, retention)
    kept = steps - set(gone)
    newest = set(sorted(steps)[-retention.keep :])
    good = max(
        (step for step in steps if retention.good_step is not None and step <= retention.good_step), default=None
    )
    next_good = min(
        (step for step in steps if retention.good_step is not None and step > retention.good_step), default=None
    )
    assert newest <= kept
    assert kept <= newest | {retention.best_step, good, next_good}
    assert retention.best_step not in gone
    assert good is None or good in kept
    assert next_good is None or next_good in kept
    assert gone == sorted(gone)


@given(STEPS, RETENTIONS)
def test_removing_them_one_by_one_is_the_same(steps: set[int], retention: Retention) -> None:
    left = set(steps)
    for step in superseded(steps, retention):
        left.remove(step)
        assert max(left) == max(steps)
        assert set(superseded(left, retention)) == set(superseded(steps, retention)) & left


def test_keep_one_keeps_one() -> None:
    assert superseded([5, 10], Retention(keep=1)) == [5]
    assert superseded([5, 10, 15], Retention(keep=1, best_step=5)) == [10]
    assert superseded([5, 10, 15, 20, 25], Retention(keep=1, good_step=12)) == [5, 20]


@given(every=st.integers(1, 20), window=st.integers(8, 60), keep=st.integers(1, 3), saves=st.integers(1, 40))
def test_there_is_always_one_to_go_back_to_that_is_at_most_two_windows_older(
    every: int, window: int, keep: int, saves: int
) -> None:
    """Whenever the loss is found to have diverged; only before the first checkpoint is old enough there is none."""
    steps: set[int] = set()
    for number in range(1, saves + 1):
        steps.add(number * every)
        steps -= set(superseded(steps, Retention(keep=keep, good_step=number * every - window)))
        for now in range(number * every, (number + 1) * every):
            good = max((step for step in steps if step <= now - window), default=0)
            if now - window >= every:
                assert good >= max(every, now - 2 * window - every)
