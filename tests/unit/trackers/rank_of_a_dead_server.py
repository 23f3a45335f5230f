"""A finished rank whose trackers never got through.

usage: python -m unit.trackers.rank_of_a_dead_server OUTPUT_DIR URL_THAT_HANGS URL_THAT_REFUSES
"""

import json
import sys
import threading
import time
from pathlib import Path

from finetune_trainer.__main__ import leave
from finetune_trainer.trackers import Tracking, openers_of
from unit.trackers.runs import tracked


def main(output: Path, hanging: str, refusing: str) -> None:
    """Sends a point, gives the trackers a second, tells what became of them, and leaves."""
    run = tracked(
        output,
        swanlab={"project": "qwen3", "online": True, "host": hanging},
        wandb={"project": "qwen3", "online": True, "host": refusing},
        mlflow={"tracking_uri": hanging, "experiment": "qwen3"},
    )
    made = Tracking(openers_of(run), first_step=1, sent_step=0)
    began = time.monotonic()
    made.log(1, {"loss": 1.0})
    queued = time.monotonic()
    made.close(1.0)
    told = {
        "put_seconds": queued - began,
        "close_seconds": time.monotonic() - queued,
        "states": {name: report.state for name, report in made.reports().items()},
        "left_behind": [each.name for each in threading.enumerate() if each.name.startswith("tracker-")],
    }
    print(json.dumps(told))
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
