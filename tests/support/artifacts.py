"""Artifacts as export leaves them, small, for tests of what happens to them afterwards."""

import json
from pathlib import Path

from finetune_contract import Artifact, ArtifactKind
from finetune_trainer.artifacts import artifact_digest
from finetune_trainer.usage import Place, usage

WEIGHTS = bytes(range(256)) * 400


def exported(folder: Path, kind: ArtifactKind, **files: bytes) -> Artifact:
    """An artifact as export leaves it, small."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "Adapter":
        config = {"r": 8, "base_model_name_or_path": "Qwen/Qwen3-8B", "revision": None}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    else:
        (folder / "config.json").write_text("{}")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    use = usage(kind, folder, Place(name=str(folder)), "huanhuan")
    (folder / "README.md").write_text(f"---\nlibrary_name: peft\n---\n\n# huanhuan\n\n{use}\n## Training\n\nsteps\n")
    return artifact(folder, kind)


def artifact(folder: Path, kind: ArtifactKind) -> Artifact:
    return Artifact(kind=kind, path=str(folder), digest=artifact_digest(folder), bytes=1, serve="vllm serve")
