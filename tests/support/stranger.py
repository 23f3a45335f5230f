"""Opens artifacts as a stranger does: by the Python in their cards, with transformers and PEFT alone.

usage: python -P stranger.py FOLDER ...     writes FOLDER.logits.safetensors, what its model says of FOLDER.ids.json
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def main(folders: list[str]) -> None:
    """Run every card's code as it stands, then ask the model that it loaded."""
    for folder in folders:
        card = Path(folder) / "README.md"
        (code,) = re.findall(r"^```python\n(.*?)\n```$", card.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        names: dict[str, Any] = {}
        exec(compile(code, str(card), "exec"), names)  # noqa: S102 - what the card tells people to run
        assert names["answer"].shape[1] > names["prompt"]["input_ids"].shape[1], "it answers"
        ids = torch.tensor([json.loads(Path(f"{folder}.ids.json").read_text())])
        with torch.no_grad():
            logits = names["model"](input_ids=ids).logits[0]
        save_file({"logits": logits.contiguous()}, f"{folder}.logits.safetensors")
    ours = [name for name in sys.modules if name.startswith("finetune_")]
    assert not ours, f"{ours} were imported"


if __name__ == "__main__":
    main(sys.argv[1:])
