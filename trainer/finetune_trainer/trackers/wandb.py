"""Weights & Biases: its cloud, a server of one's own, or a folder that `wandb sync` sends later.

Its history only grows, so replayed steps are not sent again.
"""

from pathlib import Path

from finetune_contract import RunConfig, WandbConfig
from finetune_trainer.trackers.connection import Connection, hyperparameters, run_id

RESENDS_STEPS = False


def opened(run: RunConfig, wanted: WandbConfig, first_step: int) -> Connection:  # noqa: ARG001 - ids tell runs apart
    """The one run of all attempts. Raises whatever wandb raises."""
    import wandb
    from accelerate.tracking import WandBTracker

    folder = Path(run.output_dir) / "wandb"
    folder.mkdir(parents=True, exist_ok=True)  # else it would choose another one
    settings = {"console": "off", "silent": True, "disable_git": True, "save_code": False}
    if wanted.host is not None:
        settings["base_url"] = wanted.host
    tracker = WandBTracker(
        wanted.project,
        entity=wanted.entity,
        name=run.run.name,
        id=run_id(run),
        resume="allow" if wanted.online else None,  # offline, the id alone brings the attempts together
        mode="online" if wanted.online else "offline",
        dir=str(folder),
        settings=wandb.Settings(**settings),
    )
    tracker.start()
    tracker.store_init_configuration(hyperparameters(run))
    return Connection(tracker, tracker.run.url if wanted.online else str(tracker.run.dir))
