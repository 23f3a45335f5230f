"""TensorBoard: event files in the output volume.

Replayed steps are sent again; what an earlier attempt wrote of them is purged by the reader.
"""

from pathlib import Path

from finetune_contract import RunConfig, TensorBoardConfig
from finetune_trainer.trackers.connection import Connection, hyperparameters

RESENDS_STEPS = True


def opened(run: RunConfig, wanted: TensorBoardConfig, first_step: int) -> Connection:  # noqa: ARG001 - it has no settings
    """One folder of all attempts, with an event file for each."""
    from accelerate.tracking import TensorBoardTracker

    tracker = TensorBoardTracker("tensorboard", run.output_dir, purge_step=first_step)
    tracker.start()
    # as text: accelerate's own way would make a second run of it, in a folder below this one
    table = "".join(f"    {name}: {value}\n" for name, value in hyperparameters(run).items())
    tracker.log({"settings": table}, step=first_step)
    return Connection(tracker, str(Path(run.output_dir) / "tensorboard"))
