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
    assert newest <= kept
    assert kept <= newest | {retention.best_step, good}
    assert retention.best_step not in gone
    assert good is None or good in kept
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
    assert superseded([5, 10, 15, 20], Retention(keep=1, good_step=12)) == [5, 15]
