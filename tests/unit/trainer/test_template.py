"""A run belongs to the chat template and the model that it began with: its checkpoints and its card say which."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from finetune_contract import DatasetConfig, ExitCode, RunConfig
from finetune_trainer.checkpoint import complete_checkpoints, damage, model_digest, opened
from finetune_trainer.data.build import build_tokens
from finetune_trainer.data.input_files import InputFile
from finetune_trainer.distributed import World
from finetune_trainer.failures import AgreedError
from finetune_trainer.model_folder import tokenizer_digest
from finetune_trainer.prepare import load_tokenizer
from multiproc.cases import checkpoint_of, config, train

TEMPLATES = Path(__file__).parents[2] / "support" / "templates"


def template_of(model: Path) -> str:
    """SHA-256 of a model folder's chat template."""
    settings = json.loads((model / "tokenizer_config.json").read_text())
    return hashlib.sha256(settings["chat_template"].encode()).hexdigest()


def with_template(model: Path, folder: Path, template: str) -> Path:
    """A copy of a model folder with another chat template."""
    shutil.copytree(model, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    return folder


def run_of(folder: Path, model: Path) -> RunConfig:
    """Two steps on ten rows that are prepared for a model."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"instruction": f"say {n}", "output": f"it is {n}"}) + "\n" for n in range(10)))
    sources = [{"source": {"type": "Volume", "path": str(rows)}}]
    tokens, _ = build_tokens(
        [InputFile(rows, rows.name, 0)],
        DatasetConfig.model_validate({"sources": sources, "max_tokens": 128, "seed": 7, "packing": False}),
        load_tokenizer(model), tokenizer_digest=tokenizer_digest(model), cache_dir=folder / "cache",
    )  # fmt: skip
    return config(folder / "run", model, tokens, max_steps=2, checkpoint={"every_steps": 1, "keep": 2})


def test_a_checkpoint_of_another_chat_template_is_refused(tmp_path: Path, model: Path, alone: World) -> None:
    run = run_of(tmp_path, model)
    train(alone, run)
    other = with_template(model, tmp_path / "other", (TEMPLATES / "qwen3_instruct_2507.jinja").read_text())
    with pytest.raises(AgreedError) as caught:
        train(alone, run_of(tmp_path, other).model_copy(update={"attempt": 2}))
    failure = caught.value.failure
    assert (failure.exit_code, failure.reason) == (ExitCode.USER_ERROR, "CheckpointMismatch")
    assert (
        f"chat template, prepared data differ, the first is chat template: checkpoint {template_of(model)}, "
        f"run {template_of(other)}; undo the change, or start under another name"
    ) in failure.message
    assert [damage(each) for each in complete_checkpoints(tmp_path / "run" / "checkpoints")] == [None, None]


def test_checkpoint_and_card_tell_template_and_model(tmp_path: Path, model: Path, alone: World) -> None:
    run = run_of(tmp_path, model)
    train(alone, run)
    settings = opened(checkpoint_of(tmp_path / "run", 2)).state.settings
    assert settings["template"] == template_of(model)
    assert settings["model"] == model_digest(str(model))
    card = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert f"| digest of the chat template | `{template_of(model)}` |" in card
    assert f"| digest of the base model | `{model_digest(str(model))}` |" in card
    assert f"| digest of the data | `{Path(run.tokens_dir).name}` |" in card
