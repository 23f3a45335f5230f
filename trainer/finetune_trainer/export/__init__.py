"""What a run leaves behind: made from its last checkpoint, reopened, compared, and only then given its name.

Rank 0 alone works here, on the CPU and a part of the model at a time, so it does not matter how the run was spread out,
and a model of any size is exported in the memory of its largest part.

    prompt      what the model in training says of itself
    weights     files of tensors, written and held against what they should be
    opened      models whose weights are read while a part of them computes
    checks      whether an artifact answers as it was trained to
    adapter, whole     the artifacts
    card        README.md
    folder      how an artifact comes to stand on the volume
"""

from collections.abc import Callable

import finetune_trainer.lean_peft  # noqa: F401 - before any file here imports PEFT
from finetune_contract import AdapterMethod, Artifact, RunConfig
from finetune_trainer.distributed import World
from finetune_trainer.export.adapter import adapter
from finetune_trainer.export.finished import Finished
from finetune_trainer.export.prompt import check_saved, prompt_ids, prompt_logits
from finetune_trainer.export.weights import ExportMismatchError
from finetune_trainer.export.whole import full_model, merged_model
from finetune_trainer.stopping import Stop, on_main_unless_stopped

__all__ = ["ExportMismatchError", "Finished", "check_saved", "exported", "prompt_ids", "prompt_logits"]


def exported(finished: Finished, world: World, stop: Stop) -> tuple[Artifact, ...]:
    """Write and check all artifacts of a run; the same answer on every rank. May be repeated.

    Raises: AgreedError on every rank when one cannot be written or is not what was trained; StopAgreedError.
    """
    return tuple(_agreed(make, finished, world, stop) for make in _makers(finished.config))


def _agreed(make: Callable[[Finished], Artifact], finished: Finished, world: World, stop: Stop) -> Artifact:
    return Artifact.model_validate_json(on_main_unless_stopped(world, stop, lambda: make(finished).model_dump_json()))


def _makers(config: RunConfig) -> list[Callable[[Finished], Artifact]]:
    if not isinstance(config.method, AdapterMethod):
        return [full_model]
    return [adapter, merged_model] if config.merge_adapter else [adapter]
