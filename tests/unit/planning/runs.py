"""Runs and facts for the tests of planning and manifests."""

from pathlib import Path
from typing import Any

import yaml

from finetune_contract import DatasetReport, LengthBin, ModelFacts
from finetune_operator.planning import Locations
from finetune_operator.planning.models import known_model
from finetune_operator.resource import Qwen3FineTune, parse_resource
from finetune_operator.status import PreparationStatus

EXAMPLES = Path(__file__).parents[3] / "examples"
UID = "0f8fad5b-d9cb-469f-a165-70867728950e"

TINY = ModelFacts(
    hidden_size=64,
    intermediate_size=192,
    num_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    vocab_size=1024,
    tied_embeddings=True,
)
REPORT = DatasetReport(
    rows=3654,
    validation_rows=75,
    sequences=66,
    tokens=260_303,
    supervised_tokens=91_106,
    length_p50=63,
    length_p95=128,
    length_p99=190,
    length_max=253,
    lengths=(LengthBin(up_to=64, rows=1900), LengthBin(up_to=256, rows=1829)),
    longest_sequence=4096,
    truncated_rows=0,
    dropped_rows=0,
    skipped_rows=0,
    duplicate_rows=112,
    duplicate_ids=0,
    left_out_duplicates=0,
    think_blocks=0,
    packing_efficiency=0.963,
    digest="sha256:" + "7" * 64,
)
PREPARATION = PreparationStatus(
    model_dir="/cache/models/qwen3", tokens_dir="/cache/tokens/7777", finished_at="2026-11-24T12:00:00Z"
)
REVISION = "b968826d9c46dd6066d109eabc6255188de91218"
"""The commit that the hub told the preparation."""
LOCATIONS = Locations(cache_dir="/cache", inputs_dir="/inputs", output_dir="/output/example", progress_port=29501)


def run(name: str = "example", **spec: Any) -> Qwen3FineTune:
    """A run of Qwen3-8B with the blocks of `spec` in their own camelCase."""
    blocks = {"model": {"id": "Qwen/Qwen3-8B"}, "dataset": {"path": "rows.json"}} | spec
    body = {"metadata": {"name": name, "namespace": "team", "uid": UID}, "spec": blocks}
    return parse_resource(body)


def shape(wanted: Qwen3FineTune) -> ModelFacts:
    """What the preparation of `wanted` would find: the known shape, or that of the tiny model."""
    return known_model(wanted.spec.model.id) or TINY


def report(**changes: Any) -> DatasetReport:
    """A dataset like Self-LLM's huanhuan, packed, with `changes`."""
    return DatasetReport.model_validate(REPORT.model_dump() | changes)


def example(path: Path) -> Qwen3FineTune:
    """The run in a YAML file, as the API server would hand it over."""
    body = yaml.safe_load(path.read_text(encoding="utf-8"))
    body["metadata"] |= {"namespace": "team", "uid": UID}
    return parse_resource(body)
