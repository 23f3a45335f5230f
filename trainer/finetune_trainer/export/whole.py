"""A whole model: every weight in the format that the base has it in, rounded once from fp32.

With an adapter it is the base with the adapter merged in; after full fine-tuning, the trained weights themselves.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from finetune_contract import AdapterMethod, Artifact, ArtifactKind
from finetune_contract.paths import ADAPTER, FULL_MODEL, MERGED_MODEL
from finetune_trainer import expert_layout, methods
from finetune_trainer.export import card, checks, opened, weights
from finetune_trainer.export.finished import Finished
from finetune_trainer.export.folder import appearing, artifact, copy_files
from finetune_trainer.model import ALL_ROWS, WeightFiles, load_config

log = logging.getLogger("finetune")

HEAD = "lm_head.weight"
DESCRIPTIONS = (".json", ".txt", ".jinja", ".model")
"""Endings of what describes a model and its tokenizer; by endings, so that no pickle ever comes along."""


def merged_model(finished: Finished) -> Artifact:
    """The base with the adapter merged in; the adapter has been exported before."""
    return _whole(finished, "MergedModel", MERGED_MODEL)


def full_model(finished: Finished) -> Artifact:
    """Every weight as it was trained."""
    return _whole(finished, "Model", FULL_MODEL)


def _whole(finished: Finished, kind: ArtifactKind, name: str) -> Artifact:
    config, last = finished.config, finished.last
    source, base = Path(config.model_dir), WeightFiles(config.model_dir)
    names = weight_names(base, config.model_dir)
    exact = methods.chosen(config.method).result(config.method, base, last.names, finished.trained)
    target = Path(config.output_dir) / name
    with appearing(target, finished.disk, needed_bytes=base.bytes_of(names), checkpoint=last.path) as folder:
        descriptions = (each.name for each in sorted(source.iterdir()) if _is_description(each))
        copy_files(source, folder, descriptions, finished.disk)
        weights.write_weights(folder, names, lambda each: exact(each).to(base.dtype(each)), finished.disk)
        kept = check_weights(WeightFiles(folder), base, names, finished)
        found = _compared(finished, folder, name)
        text = card.model_card(finished, kind, folder, str(target), found, kept)
        finished.disk.write(folder / "README.md", text.encode())
    return artifact(kind, target, config.run.name)


def weight_names(base: WeightFiles, model_dir: str) -> list[str]:
    """What a model's files hold: a head that is tied to the embedding is not written twice, even if the base did so."""
    tied = load_config(model_dir).tie_word_embeddings
    return [name for name in base.names if not (tied and name == HEAD)]


def _is_description(file: Path) -> bool:
    if file.name.startswith("LICENSE"):
        return True
    is_ours = file.name.endswith(("COMPLETE.json", ".safetensors.index.json"))
    return file.suffix in DESCRIPTIONS and not is_ours


def check_weights(written: WeightFiles, base: WeightFiles, names: list[str], finished: Finished) -> float:
    """Share of the update of all weights that is left after rounding to the base's formats.

    Raises: ExportMismatchError unless the files hold these tensors, in the base's formats, each as training left it:
    adapters are merged by PEFT for this, whose arithmetic is not ours.
    """
    weights.check_names(written.names, names)
    config = finished.config
    begun = methods.chosen(config.method).base(config.method, base)
    changed, kept, size = set(), 0.0, 0.0
    for name, exact in _in_files(_final(finished), written):
        changed.add(name)
        value, before = written.read(name), begun(name, ALL_ROWS).float()
        weights.check_rounded(name, value, exact, base.dtype(name))
        update = exact - before
        kept += float(torch.dot((value.float() - before).flatten(), update.flatten()))
        size += float(torch.dot(update.flatten(), update.flatten()))
    for name in sorted(set(names) - changed):
        weights.check_rounded(name, written.read(name), begun(name, ALL_ROWS).float(), base.dtype(name))
    share = kept / size if size else 1.0
    log.info("%d weights changed; %.4f of their update is left after rounding", len(changed), share)
    return share


def _final(finished: Finished) -> Iterable[tuple[str, Tensor]]:
    """The weights that training changed, by their names in the model, in fp32."""
    if isinstance(finished.config.method, AdapterMethod):
        return opened.merged_by_peft(opened.adapted_model(Path(finished.config.output_dir) / ADAPTER, finished.config))
    return ((name, finished.trained(name)) for name in finished.last.names)


def _in_files(tensors: Iterable[tuple[str, Tensor]], files: WeightFiles) -> Iterator[tuple[str, Tensor]]:
    """The same by their names in the files, where every expert of a mixture has matrices of its own."""
    names = frozenset(files.names)
    for name, tensor in tensors:
        if name in names:
            yield name, tensor
            continue
        for expert, matrix in enumerate(tensor):
            singles = expert_layout.single_names(name, expert)
            yield from zip(singles, matrix.chunk(len(singles)), strict=True)


def _compared(finished: Finished, folder: Path, what: str) -> checks.Likeness:
    models = checks.Comparison(
        base=opened.base_model(finished.config),
        trained=opened.trained_model(finished.config, finished.last),
        artifact=opened.whole_model(folder),
        is_exact=False,
    )
    base_PV, found_PV = checks.check_parts(models, finished.ids)
    found = checks.likeness(base_PV, found_PV, finished.logits_PV)
    checks.check_logits(found, checks.tolerance(finished.config, _coarsest(WeightFiles(folder))), what)
    return found


def _coarsest(files: WeightFiles) -> torch.dtype:
    return max((files.dtype(name) for name in files.names), key=lambda dtype: torch.finfo(dtype).eps)
