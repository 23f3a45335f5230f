"""SwanLab: its cloud, a host of one's own, or a folder that `swanlab sync` sends later.

A step that was sent before is ignored by the server, so replayed ones are not sent again.
"""

from pathlib import Path

from finetune_contract import RunConfig, SwanLabConfig
from finetune_trainer.trackers.connection import Connection, hyperparameters, run_id

RESENDS_STEPS = False


def opened(run: RunConfig, wanted: SwanLabConfig, first_step: int) -> Connection:  # noqa: ARG001 - ids tell runs apart
    """The one run of all attempts. Raises whatever swanlab raises.

    Settings are passed as arguments: SWANLAB_PROJECT and others in the environment are read as JSON, and only the API's
    host decides where data goes, not the web host.
    """
    import swanlab
    from accelerate.tracking import SwanLabTracker

    settings = {
        "interactive": False,  # a pod has nobody to ask
        "terminal": {"proxy_type": "none"},  # the log stays the run's own
        "probe": {"git": False, "requirements": False},
    }
    if wanted.host is not None:
        settings["api_host"] = wanted.host
    tracker = SwanLabTracker(
        wanted.project,
        workspace=wanted.workspace,
        name=run.run.name,
        id=run_id(run),
        resume="allow",
        mode="online" if wanted.online else "offline",
        log_dir=str(Path(run.output_dir) / "swanlab"),
        settings=swanlab.Settings(**settings),
    )
    tracker.start()
    tracker.store_init_configuration(hyperparameters(run))
    # offline, asking for the url is an error
    return Connection(tracker, tracker.run.url if wanted.online else str(tracker.run.dir))
