"""How an artifact is served: vLLM's command, or what keeps vLLM from serving it.

Source: vLLM's `vllm/lora/peft_helper.py` (which adapters it refuses, and that it knows one scale for all of them) and
`vllm/config/lora.py` (which ranks it makes room for).
"""

import json
import shlex
from pathlib import Path
from typing import Final

from finetune_contract import ArtifactKind

_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes."""


def serving(kind: ArtifactKind, folder: Path, place: str, name: str) -> str:
    """A command for the artifact in `folder`, loaded from `place` and served as `name`; or a sentence without one."""
    if kind != "Adapter":
        return shlex.join(["vllm", "serve", place, "--served-model-name", name])
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    ranks = [config["r"], *(config.get("rank_pattern") or {}).values()]
    if (obstacle := _obstacle(config, max(ranks))) is not None:
        return f"vLLM does not serve this adapter: {obstacle}; serve the merged model (output.mergeAdapter: true)"
    room = next(each for each in _RANKS if each >= max(ranks))
    command = ["vllm", "serve", config["base_model_name_or_path"]]
    command += ["--revision", config["revision"]] if config["revision"] else []
    return shlex.join([*command, "--enable-lora", "--max-lora-rank", str(room), "--lora-modules", f"{name}={place}"])


def _obstacle(config: dict[str, object], rank: int) -> str | None:
    if config.get("use_dora"):
        return "it is a DoRA"
    if config.get("modules_to_save"):
        return f"it replaces whole modules ({config['modules_to_save']})"
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        return "its modules have scales of their own"
    if config.get("target_parameters"):
        return "it adapts parameters that are no modules"
    if rank > _RANKS[-1]:
        return f"its rank is {rank}, and {_RANKS[-1]} is the largest"
    return None
