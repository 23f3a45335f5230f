"""Saved states of a run: one layout for every strategy and number of ranks, so any may go on from any other's.

    CHECKPOINTS/step-00000500/
        trained-00001.safetensors ...   weight|exp_avg|exp_avg_sq of every trained parameter, whole, fp32
        trainer_state.json              step, updates, loss scale, tokens, the settings it belongs to
        COMPLETE                        size and sha256 of each of the above

There is no state of random generators: what is random in a step is a function of (seed, step, micro-batch, rank), and
the loader needs the step number alone. Nothing is pickled, so a file from a shared volume can run no code.

A checkpoint grows in a hidden folder beside its place and appears by a rename once everything is on disk; what is
found half-written or damaged is never read.
"""

from finetune_trainer.checkpoint.disk import Disk
from finetune_trainer.checkpoint.reading import Checkpoint, complete_checkpoints, damage, newest, opened
from finetune_trainer.checkpoint.state import TrainerState, fingerprint, model_digest, settings_of, versions
from finetune_trainer.checkpoint.writing import save

__all__ = [
    "Checkpoint",
    "Disk",
    "TrainerState",
    "complete_checkpoints",
    "damage",
    "fingerprint",
    "model_digest",
    "newest",
    "opened",
    "save",
    "settings_of",
    "versions",
]
