"""What every rank imports, and what it is spared."""

import subprocess
import sys


def test_a_rank_imports_bitsandbytes_for_four_bits_alone() -> None:
    program = (
        "import importlib.util, sys, finetune_trainer.export\n"
        "print('peft' in sys.modules, 'bitsandbytes' in sys.modules)\n"
        "print(importlib.util.find_spec('bitsandbytes') is not None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False", "True"]
