"""Saved states of a run: one layout for every strategy and number of ranks, so any may go on from any other's.

    CHECKPOINTS/step-00000500/
        trained-0000-0001.safetensors ...   weight|exp_avg|exp_avg_sq of every trained parameter, whole, fp32; the
                                            first number is the rank that wrote the file, and means nothing else
        trainer_state.json                  step, updates, loss scale, tokens, the settings it belongs to
        COMPLETE                            size and sha256 of each of the above

There is no state of random generators: what is random in a step is a function of (seed, step, micro-batch, rank), and
the loader needs the step number alone. Nothing is pickled, so a file from a shared volume can run no code.

A checkpoint grows in a hidden folder beside its place and appears by a rename once everything is on disk; what is
found half-written or damaged is never read.
"""

from finetune_trainer.checkpoint.disk import Disk
from finetune_trainer.checkpoint.layout import complete_checkpoints, sweep
from finetune_trainer.checkpoint.reading import Checkpoint, damage, newest, opened
from finetune_trainer.checkpoint.retention import Retention
from finetune_trainer.checkpoint.saver import Saver
from finetune_trainer.checkpoint.state import TrainerState, fingerprint, model_digest, settings_of, versions
from finetune_trainer.checkpoint.volume import check_room, check_shared, volume_errors

__all__ = [
    "Checkpoint",
    "Disk",
    "Retention",
    "Saver",
    "TrainerState",
    "check_room",
    "check_shared",
    "complete_checkpoints",
    "damage",
    "fingerprint",
    "model_digest",
    "newest",
    "opened",
    "settings_of",
    "sweep",
    "versions",
    "volume_errors",
]
