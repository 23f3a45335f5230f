"""The adapter alone, in PEFT's format: fp32 as it was trained, whatever it is served in."""

from pathlib import Path

from finetune_contract import AdapterMethod, Artifact
from finetune_contract.paths import ADAPTER
from finetune_trainer.export import card, checks, opened, weights
from finetune_trainer.export.finished import Finished
from finetune_trainer.export.folder import appearing, artifact, copy_files
from finetune_trainer.methods import lora
from finetune_trainer.model import WeightFiles
from finetune_trainer.model_folder import TOKENIZER_FILES


def adapter(finished: Finished) -> Artifact:
    """Write the adapter, reopen it as PEFT does, and compare."""
    config, last = finished.config, finished.last
    method = config.method
    assert isinstance(method, AdapterMethod)
    tensors = lora.adapter_tensors(method, last.names, finished.trained)
    size = sum(tensor.nbytes for tensor in tensors.values())
    target, source = Path(config.output_dir) / ADAPTER, Path(config.model_dir)
    with appearing(target, finished.disk, needed_bytes=size, checkpoint=last.path) as folder:
        weights.write_tensors(folder / "adapter_model.safetensors", tensors, finished.disk)
        description = lora.adapter_config(
            method, last.names, base_name=finished.base_name, revision=finished.base_revision
        )
        finished.disk.write(folder / "adapter_config.json", description.encode())
        copy_files(source, folder, (name for name in TOKENIZER_FILES if (source / name).is_file()), finished.disk)
        weights.check_equal(WeightFiles(folder), tensors)
        found = _compared(finished, folder)
        text = card.model_card(finished, "Adapter", folder, str(target), found, kept=1.0)
        finished.disk.write(folder / "README.md", text.encode())
    return artifact("Adapter", target, config.run.name)


def _compared(finished: Finished, folder: Path) -> checks.Likeness:
    config = finished.config
    models = checks.Comparison(
        base=opened.base_model(config),
        trained=opened.trained_model(config, finished.last),
        artifact=opened.adapted_model(folder, config),
        is_exact=True,
    )
    base_PV, found_PV = checks.check_parts(models, finished.ids)
    found = checks.likeness(base_PV, found_PV, finished.logits_PV)
    checks.check_logits(found, checks.tolerance(config), "adapter")
    checks.check_share(found, "adapter")
    return found
