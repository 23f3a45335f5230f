"""What the preparation found, and how it ended."""

from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_operator.status.base import Line, StatusModel, Timestamp


class LengthBinStatus(StatusModel):
    """Rows of about one length."""

    up_to: int
    """Tokens: more than half of this, and at most this."""
    rows: int
    """How many there are."""


class SourceStatus(StatusModel):
    """What one source of a mix brought, before weights and validation."""

    rows: int
    """Read, bad ones too."""
    tokens: int
    """Of the rows that were kept."""
    bad_rows: int
    """Left out, as dataset.badRows allows."""


class DatasetStatus(StatusModel):
    """What the preparation found; see `finetune_contract.DatasetReport`."""

    rows: int
    """Training rows of one epoch; one that a weight takes twice counts twice."""
    validation_rows: int
    """Rows held out."""
    sequences: int
    """What a step's batch counts: packed sequences with packing, else rows."""
    tokens: int
    """Training tokens of one epoch."""
    supervised_tokens: int
    """Of these, tokens that carry loss."""
    length_p50: int
    """Median length of a row, in tokens, before truncation."""
    length_p95: int
    """Length that 95 of 100 rows do not exceed."""
    length_p99: int
    """Length that 99 of 100 rows do not exceed."""
    length_max: int
    """Length of the longest row."""
    lengths: Annotated[tuple[LengthBinStatus, ...], Field(max_length=24)]
    """Rows by length, shortest first."""
    longest_sequence: int
    """In tokens, after packing and truncation: what the memory estimate counts with."""
    truncated_rows: int
    """Rows that lost their end to maxTokens."""
    dropped_rows: int
    """Rows left out: overlong, or without a supervised token."""
    skipped_rows: int
    """Bad rows left out, as dataset.badRows allows."""
    duplicate_rows: int
    """Rows that equal an earlier one; they stay."""
    duplicate_ids: int
    """Rows whose `id` an earlier one has; they stay."""
    left_out_duplicates: int
    """Rows not trained on since the validation's own source has equal ones."""
    think_blocks: int
    """Assistant turns with reasoning of their own."""
    packing_efficiency: float
    """Share of the packed sequences that is tokens."""
    sources: Annotated[tuple[SourceStatus, ...], Field(max_length=16)] = ()
    """What each source of a mix brought, in its order."""
    template_digest: Line | None = None
    """SHA-256 of the chat template that rows were rendered with; absent: plain text alone."""
    digest: Line
    """Key of the token cache: content, tokenizer, template and options."""


class ModelStatus(StatusModel):
    """The model's shape and where it was prepared; see `finetune_contract.ModelFacts`."""

    revision: Line | None = None
    """Commit that the hub resolved the revision to; absent for a volume."""
    hidden_size: int
    """Width of the model."""
    intermediate_size: int
    """Width of the feed-forward layers."""
    num_layers: int
    """Decoder layers."""
    num_attention_heads: int
    """Query heads."""
    num_key_value_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of a head."""
    vocab_size: int
    """Tokens that the model knows."""
    tied_embeddings: bool
    """Whether input and output embeddings are one matrix."""


class PreparationStatus(StatusModel):
    """Record of a finished preparation: what the attempts start from."""

    model_dir: Line
    """Folder of the model in the cache volume."""
    tokens_dir: Line
    """Folder of the token cache in the cache volume."""
    finished_at: Timestamp
    """When it had ended."""


class PreparationFailureStatus(StatusModel):
    """Record of a preparation that ended badly."""

    started_at: Timestamp
    """When its Job was made."""
    cause: Line
    """A value of `failures.Cause`."""
    message: Annotated[str, StringConstraints(max_length=1024)]
    """What went wrong."""
    decision: Line
    """A value of `failures.Verdict`."""
