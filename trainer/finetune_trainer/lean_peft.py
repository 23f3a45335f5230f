"""Brings PEFT in without bitsandbytes; to be imported before anything of PEFT.

PEFT imports bitsandbytes wherever it is installed, and that brings torch's compiler along: five seconds of a CPU for
every rank that starts. Only a base in four bits needs it, and nf4.py imports it by itself. PEFT asks once whether it is
there and remembers the answer, so it is hidden for that moment.
"""

import importlib
import sys

_NAME = "bitsandbytes"

if _NAME not in sys.modules:
    sys.modules[_NAME] = None  # type: ignore[assignment]
    try:
        importlib.import_module("peft")
    finally:
        del sys.modules[_NAME]
