"""README.md: what an artifact is, from what data and with what settings it was made, and how to use it.

Nothing in it depends on when or where the export ran, so a repeated export writes the same bytes.
"""

import importlib.metadata
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from huggingface_hub import ModelCardData, metadata_load

from finetune_contract import ArtifactKind, HubKind, QloraMethod
from finetune_contract.paths import ATTEMPTS, LOSSES_FILE
from finetune_contract.version import __version__
from finetune_trainer.export.checks import Likeness
from finetune_trainer.export.finished import Finished
from finetune_trainer.usage import Place, usage

_PACKAGES: Final = ("torch", "transformers", "peft", "safetensors")
_RELATION: Final = {"Adapter": "adapter", "MergedModel": "finetune", "Model": "finetune"}
"""The hub's word for how an artifact came from its base."""
_WHAT: Final = {
    "Adapter": "LoRA adapter for",
    "MergedModel": "LoRA fine-tuning, merged, of",
    "Model": "Full fine-tuning of",
}
_PAGE: Final = {
    HubKind.HUGGING_FACE: "https://huggingface.co/{}",
    HubKind.MODEL_SCOPE: "https://www.modelscope.cn/models/{}",
}
_LINES: Final = 12
"""Steps in the table of losses."""


def model_card(finished: Finished, kind: ArtifactKind, folder: Path, place: str, found: Likeness, kept: float) -> str:
    """The card of the artifact that grows in `folder` and will be loaded from `place`."""
    parts = [
        f"---\n{metadata(finished, kind)}\n---",
        f"# {finished.config.run.name}",
        f"{_WHAT[kind]} {_base_words(finished)}.{_four_bits(finished, kind)}",
        usage(kind, folder, Place(name=place), finished.config.run.name).rstrip(),
        "## Training",
        _table(("", ""), _facts(finished)),
        *_losses(finished),
        "## Checks",
        _check_words(kind, found, kept),
        "## Settings",
        f"```json\n{json.dumps(finished.last.state.settings, indent=2, sort_keys=True)}\n```",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in _versions()),
    ]
    return "\n\n".join(parts) + "\n"


def metadata(finished: Finished, kind: ArtifactKind) -> str:
    """The card's head, as the hubs read it; licence and language are those of the base."""
    origin, method = finished.config.model_origin, finished.config.method
    of_base = _metadata_of_base(Path(finished.config.model_dir))
    data = ModelCardData(
        base_model=None if origin is None else origin.id,
        base_model_relation=None if origin is None else _RELATION[kind],
        library_name="peft" if kind == "Adapter" else "transformers",
        pipeline_tag="text-generation",
        tags=["qwen3", method.type.lower(), "qwen3-finetune"],
        **of_base,
    )
    return str(data.to_yaml())


def _metadata_of_base(model_dir: Path) -> dict[str, Any]:
    card = model_dir / "README.md"
    known = (metadata_load(card) or {}) if card.is_file() else {}
    return {key: known[key] for key in ("license", "license_name", "license_link", "language") if known.get(key)}


def _base_words(finished: Finished) -> str:
    origin = finished.config.model_origin
    if origin is None:
        return f"`{Path(finished.config.model_dir).name}`, a model from a volume"
    revision = f" at revision `{origin.revision}`" if origin.revision else ""
    return f"[{origin.id}]({_PAGE[origin.hub].format(origin.id)}){revision}"


def _four_bits(finished: Finished, kind: ArtifactKind) -> str:
    if not isinstance(finished.config.method, QloraMethod):
        return ""
    if kind == "Adapter":
        return (
            " It was trained on the base in four bits (nf4): on the base as published it answers a little differently."
        )
    return " The base's weights carry the error of the four bits (nf4) that it was trained in."


def _facts(finished: Finished) -> Iterator[tuple[str, str]]:
    state, dataset, config = finished.last.state, finished.dataset, finished.config
    yield "steps", f"{state.step:,}, {config.batch.global_sequences} sequences each"
    yield "tokens", f"{state.tokens:,}"
    if state.loss is not None:
        yield "loss of the last step", f"{state.loss:.4f}"
    if state.evaluation.loss is not None:
        yield "loss on held-out rows", f"{state.evaluation.loss:.4f}"
    yield "data", f"{dataset.rows:,} rows, {dataset.tokens:,} tokens, {dataset.supervised_tokens:,} of them learnt"
    yield "digest of the data", f"`{dataset.digest}`"
    if dataset.template_digest is not None:
        yield "digest of the chat template", f"`{dataset.template_digest}`"
    yield "digest of the base model", f"`{state.settings['model']}`"
    yield (
        "strategy",
        f"{config.parallelism.type} on {config.batch.world_size} ranks, {config.precision.value}",
    )


def _losses(finished: Finished) -> Iterator[str]:
    losses = recorded_losses(Path(finished.config.output_dir))
    if losses:
        steps = sorted(losses)
        shown = sorted({steps[round(index * (len(steps) - 1) / (_LINES - 1))] for index in range(_LINES)})
        yield _table(("step", "loss"), ((f"{step:,}", f"{losses[step]:.4f}") for step in shown))


def recorded_losses(output_dir: Path) -> dict[int, float]:
    """Loss of each step, as the attempts wrote it down; where a step was done twice, the later attempt's.

    Steps without a finite loss are left out.
    """
    losses: dict[int, float | None] = {}
    files = (output_dir / ATTEMPTS).glob(f"*/{LOSSES_FILE}")
    for file in sorted(files, key=lambda each: int(each.parent.name)):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the last line of an attempt that was killed may be cut off
            losses[row["step"]] = row["loss"]
    return {step: loss for step, loss in losses.items() if loss is not None and math.isfinite(loss)}


def _check_words(kind: ArtifactKind, found: Likeness, kept: float) -> str:
    words = (
        f"Reopened and compared with the model in training on one prompt: logits differ by {found.difference:.2g} of "
        f"their standard deviation, where training changed them by {found.update:.2g}."
    )
    if kind == "Adapter":
        return f"{words} Every tensor is as it was trained, bit for bit."
    return f"{words} {kept:.1%} of the change of the weights is left after rounding them to the base's formats."


def _versions() -> Iterator[tuple[str, str]]:
    yield from ((name, importlib.metadata.version(name)) for name in _PACKAGES)
    yield "qwen3-finetune", __version__


def _table(head: tuple[str, str], rows: Iterator[tuple[str, str]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines)
