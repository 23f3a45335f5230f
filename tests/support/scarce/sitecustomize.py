"""Python imports this by itself where the folder is on PYTHONPATH. A rank then gets SCARCE_BYTES beyond what it holds.

The limit is set when the rank is about to make its model. From then on the kernel refuses what goes beyond it: what
fails is a real allocation of the real trainer.
"""

import os
import resource
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

_LAST_IMPORT = "finetune_trainer.stepping"


class _Scarcity(MetaPathFinder):
    """Finds no module, and sets the limit when the last one is looked for."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == _LAST_IMPORT:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            limit = pages * resource.getpagesize() + int(os.environ["SCARCE_BYTES"])
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if "RANK" in os.environ:
    sys.meta_path.insert(0, _Scarcity())
