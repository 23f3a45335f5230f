"""Which event says what an object is stuck at."""

from typing import Any

from finetune_operator.backends.kubernetes.complaints import newest_complaints
from finetune_operator.backends.kubernetes.kinds import JOBS, PODS


def event(second: int, reason: str, kind: str = "Normal", uid: str = "a") -> dict[str, Any]:
    """One about an object, at that second."""
    at = f"2026-01-01T00:00:{second:02}Z"
    return {"type": kind, "reason": reason, "lastTimestamp": at, "involvedObject": {"uid": uid}}


def test_the_newest_complaint_of_each_object_counts() -> None:
    events = [
        event(3, "FailedCreate", "Warning"),
        event(1, "FailedCreate", "Warning"),
        event(9, "SuccessfulCreate"),
        event(2, "FailedBinding", uid="b"),
    ]
    assert newest_complaints(JOBS, events) == {"a": events[0], "b": events[3]}


def test_what_a_pod_has_got_over_is_no_complaint_any_more() -> None:
    stuck = [event(1, "Scheduled"), event(4, "FailedMount", "Warning")]
    assert newest_complaints(PODS, stuck) == {"a": stuck[1]}
    assert newest_complaints(PODS, [*stuck, event(5, "Pulling")]) == {}
