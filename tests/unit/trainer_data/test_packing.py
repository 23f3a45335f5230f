"""Packing loses and doubles nothing, wastes little, takes linear time, and mixes documents of all lengths."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.packing import packed

MAX_TOKENS = 64
LENGTHS = st.lists(st.integers(1, MAX_TOKENS), max_size=200)


@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_every_document_is_in_exactly_one_sequence(lengths: list[int], seed: int) -> None:
    sequences = packed(lengths, max_tokens=MAX_TOKENS, seed=seed)
    assert sorted(document for sequence in sequences for document in sequence) == list(range(len(lengths)))


@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_no_sequence_is_too_long_or_empty(lengths: list[int], seed: int) -> None:
    for sequence in packed(lengths, max_tokens=MAX_TOKENS, seed=seed):
        assert 0 < sum(lengths[document] for document in sequence) <= MAX_TOKENS


@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_two_packings_are_equal(lengths: list[int], seed: int) -> None:
    assert packed(lengths, max_tokens=MAX_TOKENS, seed=seed) == packed(lengths, max_tokens=MAX_TOKENS, seed=seed)


@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_no_two_sequences_could_have_been_one(lengths: list[int], seed: int) -> None:
    sequences = packed(lengths, max_tokens=MAX_TOKENS, seed=seed)
    sizes = sorted(sum(lengths[document] for document in sequence) for sequence in sequences)
    assert len(sizes) < 2 or sizes[0] + sizes[1] > MAX_TOKENS


def test_long_documents_are_paired_with_what_fills_them() -> None:
    sequences = packed([60, 50, 40, 24, 14, 4], max_tokens=64, seed=1)
    assert sorted(sorted(sequence) for sequence in sequences) == [[0, 5], [1, 4], [2, 3]]


def test_short_documents_of_all_lengths_share_a_sequence() -> None:
    lengths = [2] * 500 + [8] * 500
    sequences = packed(lengths, max_tokens=128, seed=3)
    for sequence in sequences[: len(sequences) * 9 // 10]:  # a sequence's end prefers 8: the last ones get less of it
        assert {lengths[document] for document in sequence} == {2, 8}


@pytest.mark.parametrize("max_tokens", [2048, 4096, 8192])
@pytest.mark.parametrize("seed", [1, 42])
def test_short_conversations_need_no_sequence_more_than_their_tokens_do(max_tokens: int, seed: int) -> None:
    lengths = conversation_lengths(3729)
    assert len(packed(lengths, max_tokens=max_tokens, seed=seed)) == -(-lengths.sum() // max_tokens)


def test_no_sequence_is_of_long_or_of_short_conversations() -> None:
    lengths = conversation_lengths(20_000)
    means = [lengths[sequence].mean() for sequence in packed(lengths, max_tokens=4096, seed=1)]
    assert max(abs(mean / lengths.mean() - 1) for mean in means[:-1]) < 0.3


@pytest.mark.parametrize("longest", [1000, 4096])
def test_long_documents_are_packed_as_well_as_by_best_fit_decreasing(longest: int) -> None:
    lengths = np.random.default_rng(0).integers(600, longest + 1, 2000)
    assert len(packed(lengths, max_tokens=4096, seed=1)) <= best_fit_decreasing(lengths.tolist(), 4096)


@pytest.mark.parametrize("lengths", [np.full(40_000, 1600), np.tile([20, 16_000], 20_000)], ids=["one", "two"])
def test_lengths_that_leave_no_choice_cost_no_search(lengths: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> None:
    begin = time.process_time()
    packed(lengths, max_tokens=131_072, seed=1)
    assert time.process_time() - begin < 10  # a search for every room would take minutes


def conversation_lengths(count: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Lengths like those of short chats: 30 to 250 tokens, 70 on average."""
    drawn = np.random.default_rng(0).gamma(2.0, 20.0, count)
    return np.clip(drawn.astype(np.int64) + 31, None, 253)


def best_fit_decreasing(lengths: list[int], max_tokens: int) -> int:
    """Sequences that the textbook's algorithm needs: a document goes where it leaves the least room, longest first."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else max_tokens) - length)
    return len(rooms)
