"""How an artifact is loaded and served, wherever it stands: Python for transformers and PEFT, a command for vLLM.

Source of what vLLM serves: its `vllm/lora/peft_helper.py` (which adapters it refuses, and that it knows one scale for
all of an adapter's modules) and `vllm/config/lora.py` (which ranks it makes room for).
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_contract import ArtifactKind, HubKind

USE = "## Use"
"""Heading of the part of a card that this file writes; it ends before the next heading."""

_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `--max-lora-rank` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an artifact is loaded from."""

    name: str
    """A folder, or a repository's id."""
    hub: HubKind | None = None
    revision: str | None = None
    """Branch; None: the hub's own default."""
    subfolder: str | None = None

    @property
    def is_direct(self) -> bool:
        """Whether transformers, PEFT and vLLM find it under its name alone."""
        return self.hub is None or (self.hub is HubKind.HUGGING_FACE and not self.revision and not self.subfolder)


def usage(kind: ArtifactKind, folder: Path, place: Place, name: str) -> str:
    """The part of a card that says how to use the artifact in `folder`, once it is at `place`; served as `name`."""
    served = serving(kind, folder, place, name)
    console = served if served.startswith("vLLM does not") else f"```console\n{served}\n```"
    return f"{USE}\n\n```python\n{loading(kind, place, has_template=_has_template(folder))}\n```\n\n{console}\n"


def loading(kind: ArtifactKind, place: Place, *, has_template: bool) -> str:
    """Python that loads the artifact and lets it answer."""
    package, name = "transformers", "AutoModelForCausalLM"
    if kind == "Adapter":
        package, name = "peft", "AutoPeftModelForCausalLM"
    imports = [f"from {package} import {name}", "from transformers import AutoTokenizer"]
    if not place.is_direct:
        assert place.hub is not None
        imports.insert(0, f"from {_DOWNLOADER[place.hub]} import snapshot_download")
    prompt = 'tokenizer("The meaning of life is", return_tensors="pt")'
    if has_template:
        prompt = (
            'tokenizer.apply_chat_template(\n    [{"role": "user", "content": "Who are you?"}], '
            'add_generation_prompt=True, return_tensors="pt", return_dict=True\n)'
        )
    return f"""{chr(10).join(imports)}

place = {_place(place)}
model = {name}.from_pretrained(place, dtype="auto", device_map="auto")
tokenizer = AutoTokenizer.from_pretrained(place)
prompt = {prompt}.to(model.device)
answer = model.generate(**prompt, max_new_tokens=128)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))"""


_DOWNLOADER = {HubKind.HUGGING_FACE: "huggingface_hub", HubKind.MODEL_SCOPE: "modelscope"}


def _place(place: Place) -> str:
    if place.is_direct:
        return json.dumps(place.name)
    options = [json.dumps(place.name)]
    options += [f"revision={json.dumps(place.revision)}"] if place.revision else []
    options += [f'allow_patterns="{place.subfolder}/*"'] if place.subfolder else []
    folder = f"snapshot_download({', '.join(options)})"
    return f'{folder} + "/{place.subfolder}"' if place.subfolder else folder


def serving(kind: ArtifactKind, folder: Path, place: Place, name: str) -> str:
    """Commands for the artifact in `folder` once it is at `place`, or a sentence that says why vLLM has none."""
    config = _adapter_config(folder) if kind == "Adapter" else {}
    if config and (obstacle := _obstacle(config)) is not None:
        return f"vLLM does not serve this adapter: {obstacle}; serve the merged model (output.mergeAdapter: true)"
    local, fetch = place.name, ""
    if not place.is_direct:
        top = place.name.rpartition("/")[2]
        local = f"{top}/{place.subfolder}" if place.subfolder else top
        fetch = _download(place, top) + "\n"
    return fetch + (_adapter_command(config, name, local) if config else _command(local, name))


def _download(place: Place, target: str) -> str:
    is_hugging_face = place.hub is HubKind.HUGGING_FACE
    command = ["hf", "download", place.name] if is_hugging_face else ["modelscope", "download", "--model", place.name]
    command += ["--revision", place.revision] if place.revision else []
    command += ["--include", f"{place.subfolder}/*"] if place.subfolder else []
    return shlex.join([*command, "--local-dir" if is_hugging_face else "--local_dir", target])


def _command(place: str, name: str) -> str:
    return shlex.join(["vllm", "serve", place, "--served-model-name", name])


def _adapter_command(config: dict[str, Any], name: str, place: str) -> str:
    room = next(each for each in _RANKS if each >= config["r"])
    command = ["vllm", "serve", config["base_model_name_or_path"]]
    command += ["--revision", config["revision"]] if config["revision"] else []
    return shlex.join([*command, "--enable-lora", "--max-lora-rank", str(room), "--lora-modules", f"{name}={place}"])


def _obstacle(config: dict[str, Any]) -> str | None:
    if config.get("use_dora"):
        return "it is a DoRA"
    if config.get("modules_to_save"):
        return f"it replaces whole modules ({', '.join(config['modules_to_save'])})"
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        return "its modules have scales of their own"
    if config.get("target_parameters"):
        return "it adapts parameters that are no modules"
    if config["r"] > _RANKS[-1]:
        return f"its rank is {config['r']}, and {_RANKS[-1]} is the largest"
    return None


def _adapter_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return config


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))
