"""The scheduler's message in plain words: nothing of it is lost, and no message whatever is too strange."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.lifecycle.room import in_words


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "0/12 nodes are available: 4 node(s) had untolerated taint(s), 8 Insufficient nvidia.com/gpu. preemption: "
            "0/12 nodes are available: 4 Preemption is not helpful for scheduling, 8 No preemption victims found for "
            "incoming pod.",
            "0 of 12 nodes fit: 4 have a taint that is not tolerated, 8 lack nvidia.com/gpu; with evictions: "
            "0 of 12 nodes fit: 4 would not fit after evictions either, 8 hold nothing that may be evicted for it",
        ),
        (
            "0/3 nodes are available: 1 node(s) had untolerated taint {team: a, b}, 2 Insufficient cpu.",
            "0 of 3 nodes fit: 1 have a taint that is not tolerated {team: a, b}, 2 lack cpu",
        ),
        (
            "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 a word of the future.",
            "0 of 2 nodes fit: 1 have not the labels that nodeSelector or affinity want, 1 a word of the future",
        ),
        ("0/1 nodes are available: pod group is not ready.", "0 of 1 nodes fit: pod group is not ready"),
        ("no nodes available to schedule pods", "no nodes available to schedule pods"),
        ("", ""),
    ],
)
def test_what_the_scheduler_says_is_put_into_words(said: str, words: str) -> None:
    assert in_words(said) == words


COUNTS = st.integers(0, 5000)
RESOURCE = st.from_regex(r"[a-z][a-z0-9.-]{0,10}/[a-z]{1,8}", fullmatch=True)
REASONS = st.one_of(
    st.builds("Insufficient {}".format, RESOURCE),
    st.builds("node(s) had untolerated taint {{{}: present}}".format, RESOURCE),
    st.sampled_from(["node(s) were unschedulable", "Too many pods"]),
    st.from_regex(r"[A-Za-z][A-Za-z ()/']{0,40}[a-z]", fullmatch=True),
)


@given(COUNTS, st.lists(st.tuples(COUNTS, REASONS), min_size=1, max_size=6))
def test_every_number_and_every_name_is_still_there(nodes: int, reasons: list[tuple[int, str]]) -> None:
    told = ", ".join(f"{count} {why}" for count, why in reasons)
    words = in_words(f"0/{nodes} nodes are available: {told}.")
    assert re.findall(r"\d+", words) == re.findall(r"\d+", f"0 {nodes} {told}")
    assert [name for name in re.findall(r"[a-z0-9.-]+/[a-z]+", told) if name in words] == re.findall(
        r"[a-z0-9.-]+/[a-z]+", told
    )


@given(st.text(max_size=300))
def test_any_other_message_is_passed_on(text: str) -> None:
    words = in_words(text)
    if "preemption: " not in text.lower() and "nodes are available" not in text:
        assert words == text


@given(st.text("0123/ nodesareavailable:,.preemtion{}", max_size=200))
def test_no_message_is_too_strange(text: str) -> None:
    assert isinstance(in_words(text), str)
