"""Packing loses and doubles nothing, and wastes little."""

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
    for sequence in packed(lengths, max_tokens=128, seed=3)[:-1]:
        assert {lengths[document] for document in sequence} == {2, 8}
