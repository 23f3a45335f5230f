"""A whole preparation, as the operator starts it."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_contract import ExitCode, PrepareConfig, PrepareOutcome, RunIdentity, paths
from finetune_trainer.data.disk_space import bytes_below
from finetune_trainer.data.folders import MARKER
from finetune_trainer.data.loader import open_tokens
from finetune_trainer.prepare import main, system_failure
from support import volumes
from support.hub_server import COMMIT, Repo, hub_server
from support.tiny import HUANHUAN, tiny_model_dir

Prepare = Callable[..., PrepareOutcome]
MOUNTS = pytest.mark.skipif(volumes.missing() is not None, reason=str(volumes.missing()))


@pytest.fixture
def prepare(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Runs a preparation with `fields` changed, and gives the outcome from its termination file."""
    monkeypatch.setenv(paths.TERMINATION_FILE_ENV, str(tmp_path / "termination"))

    def run(*, dataset: dict[str, Any] | None = None, **fields: Any) -> PrepareOutcome:
        file = config_file(tmp_path, tiny_model, dataset=dataset, **fields)
        code = main([str(file)])
        outcome = PrepareOutcome.model_validate_json((tmp_path / "termination").read_text())
        assert code == outcome.exit_code
        return outcome

    return run


def config_file(folder: Path, model_dir: Path, *, dataset: dict[str, Any] | None = None, **fields: Any) -> Path:
    config = {
        "run": RunIdentity(name="tiny", namespace="default", uid="1"),
        "model": {"type": "Volume", "path": str(model_dir)},
        "dataset": sources({"type": "Volume", "path": str(HUANHUAN)})
        | {"max_tokens": 512, "seed": 1}
        | (dataset or {}),
        "method": {"type": "LoRA", "rank": 4, "alpha": 8, "dropout": 0, "targets": ["q_proj", "v_proj"]},
        "cache_dir": str(folder / "cache"),
    }
    file = folder / "prepare.json"
    file.write_text(PrepareConfig.model_validate({**config, **fields}).model_dump_json())
    return file


def sources(*each: dict[str, Any]) -> dict[str, Any]:
    return {"sources": [{"source": source} for source in each]}


def rows_file(folder: Path, text: str) -> dict[str, Any]:
    (folder / "rows.json").write_text(text, encoding="utf-8")
    return sources({"type": "Volume", "path": str(folder / "rows.json")})


def test_a_preparation_leaves_a_token_cache_and_says_what_is_in_it(prepare: Prepare, tiny_model: Path) -> None:
    outcome = prepare(dataset={"validation": {"fraction": 0.05}})
    assert outcome.exit_code is ExitCode.DONE
    assert (outcome.model_dir, outcome.model_revision) == (str(tiny_model), None)
    assert outcome.model is not None
    assert outcome.model.vocab_size == 1024
    assert outcome.dataset is not None
    assert outcome.tokens_dir is not None
    cache = open_tokens(outcome.tokens_dir)
    assert cache.report == outcome.dataset
    assert (outcome.dataset.rows, outcome.dataset.validation_rows) == (380, 20)
    assert outcome.dataset.packing_efficiency > 0.95


def test_the_outcome_is_on_stdout_and_the_arithmetic_in_the_log(
    prepare: Prepare, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    outcome = prepare()
    assert PrepareOutcome.model_validate_json(capsys.readouterr().out) == outcome
    assert caplog.text.count("preview, learnt parts in ⟦ ⟧") == 3
    assert "tokens: 400 rows, " in caplog.text
    assert "sequences of at most 512: " in caplog.text


def test_a_second_preparation_gives_the_same_answer(prepare: Prepare, caplog: pytest.LogCaptureFixture) -> None:
    first = prepare()
    caplog.set_level("INFO")
    caplog.clear()
    assert prepare() == first
    assert "is complete, nothing to do" in caplog.text


def test_bad_rows_come_back_with_their_lines(prepare: Prepare, tmp_path: Path) -> None:
    text = '[\n{"instruction": "a", "output": "b"},\n{"instruction": "c", "output": ""},\n{"instruction": "d"}\n]'
    failure = prepare(dataset=rows_file(tmp_path, text)).failure
    assert failure is not None
    assert (failure.exit_code, failure.reason) == (ExitCode.USER_ERROR, "BadRows")
    assert failure.details == (
        "line 3, row 2: output is empty",
        "line 4, row 3: no output; columns found: instruction",
    )


def test_an_answer_about_thousands_of_bad_rows_fits_the_termination_message(prepare: Prepare, tmp_path: Path) -> None:
    text = json.dumps([{"instruction": "甄" * 300, "output": "嬛" * n, "history": "傳" * 200} for n in range(3000)])
    outcome = prepare(dataset=rows_file(tmp_path, text))
    assert outcome.failure is not None
    assert "3,000 rows of rows.json" in outcome.failure.message
    assert (tmp_path / "termination").stat().st_size <= 4096


@pytest.mark.parametrize(
    ("fields", "reason", "said"),
    [
        ({"model": {"type": "Volume", "path": "/nowhere/qwen"}}, "ModelNotFound", "model.path: /nowhere/qwen does not"),
        (
            {"dataset": {"sources": [{"source": {"type": "Volume", "path": "/nowhere/rows.json"}}]}},
            "DatasetNotFound",
            "dataset.path: /nowhere/rows.json does not exist",
        ),
        (
            {"method": {"type": "LoRA", "rank": 4, "alpha": 8, "dropout": 0, "targets": ["k_porj"]}},
            "TargetNotFound",
            "method.lora.targets: k_porj is no linear module of the model; allowed are down_proj",
        ),
    ],
)
def test_a_run_that_cannot_work_is_refused(prepare: Prepare, fields: dict[str, Any], reason: str, said: str) -> None:
    failure = prepare(**fields).failure
    assert failure is not None
    assert (failure.exit_code, failure.reason) == (ExitCode.USER_ERROR, reason)
    assert said in failure.message


def test_a_row_with_more_tokens_than_the_model_has_positions_is_refused(prepare: Prepare, tmp_path: Path) -> None:
    model = tiny_model_dir(tmp_path / "short")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 64}))
    failure = prepare(model={"type": "Volume", "path": str(model)}).failure
    assert failure is not None
    assert failure.reason == "RowTooLong"
    assert "the model has positions for 64; set dataset.maxTokens to at most 64" in failure.message
    assert prepare(model={"type": "Volume", "path": str(model)}, dataset={"max_tokens": 64}).failure is None


def test_a_file_that_is_no_config_is_refused_for_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prepare.json").write_text('{"version": 99}')
    assert main([str(tmp_path / "prepare.json")]) == ExitCode.USER_ERROR
    failure = PrepareOutcome.model_validate_json(capsys.readouterr().out).failure
    assert failure is not None
    assert failure.reason == "ContractMismatch"


@pytest.mark.parametrize(
    ("code", "reason", "exit_code"),
    [
        (errno.ENOSPC, "NoSpace", ExitCode.USER_ERROR),
        (errno.EDQUOT, "NoSpace", ExitCode.USER_ERROR),
        (errno.EROFS, "NotPermitted", ExitCode.USER_ERROR),
        (errno.EIO, "VolumeFailed", ExitCode.INFRASTRUCTURE),
    ],
)
def test_what_the_volume_refuses_is_told_apart(tmp_path: Path, code: int, reason: str, exit_code: ExitCode) -> None:
    failure = system_failure(OSError(code, os.strerror(code)), str(tmp_path))
    assert (failure.reason, failure.exit_code) == (reason, exit_code)


@pytest.mark.parametrize(
    ("file", "field"), [("cache/tokens/x", "storage.cache"), ("inputs/rows.json", "storage.inputs")]
)
def test_what_may_not_be_read_or_written_is_told_by_its_volume(tmp_path: Path, file: str, field: str) -> None:
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / file))
    message = system_failure(error, str(tmp_path / "cache")).message
    assert message.startswith(f"{field}: [Errno 13] Permission denied: '{tmp_path / file}'; ")
    assert f"user {os.geteuid()}" in message


def long_rows(folder: Path) -> dict[str, Any]:
    """Rows of a hundred tokens and more, some 400 kB of tokens and notes about them."""
    return rows_file(folder, json.dumps([{"instruction": f"say {n}", "output": f"{n} " * 60} for n in range(300)]))


@MOUNTS
def test_a_cache_volume_that_fills_up_is_told_of_in_sizes_and_gone_on_with(prepare: Prepare, tmp_path: Path) -> None:
    """At every size of the volume that is too small, wherever in the preparation that shows."""
    rows = long_rows(tmp_path)
    elsewhere = prepare(dataset=rows)
    needed = bytes_below(tmp_path / "cache")
    refused = []
    with volumes.tmpfs(tmp_path / "small", 4096) as volume:
        for quarters in range(1, 17):
            volumes.resize(volume, needed * quarters // 4)
            outcome = prepare(dataset=rows, cache_dir=str(volume))
            if outcome.failure is None:
                break
            assert (outcome.failure.exit_code, outcome.failure.reason) == (ExitCode.USER_ERROR, "NoSpace")
            assert outcome.failure.message.startswith("storage.cache: the token cache needs ")
            assert f"and the volume at {volume}" in outcome.failure.message
            assert "MB free of " in outcome.failure.message
            assert "; enlarge it, or remove models" in outcome.failure.message
            refused.append(outcome.failure.message)
        assert outcome.dataset == elsewhere.dataset
        made, expected = (Path(str(each.tokens_dir)) / MARKER for each in (outcome, elsewhere))
        assert made.read_bytes() == expected.read_bytes()
        assert [path for path in (volume / "tokens").iterdir() if path.is_dir()] == [made.parent], "no work is left"
    assert len(refused) >= 3
    for folder in ("shards", "training"):  # in the middle of reading, and before tokens are written for good
        assert any(re.search(rf"needs 0\.[1-9] MB more, and the volume at \S+/{folder} has", each) for each in refused)


@MOUNTS
def test_a_read_only_cache_volume_is_refused_by_name(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    with volumes.read_only(tmp_path / "cache"):
        failure = prepare(dataset=long_rows(tmp_path)).failure
    assert failure is not None
    assert (failure.exit_code, failure.reason) == (ExitCode.USER_ERROR, "NotPermitted")
    assert failure.message.startswith("storage.cache: [Errno 30] Read-only file system: ")
    assert str(tmp_path / "cache") in failure.message
    assert "mount the volume read-write" in failure.message


def test_the_module_runs_as_the_operator_starts_it_with_a_token_for_each_hub_source(
    tmp_path: Path, tiny_model: Path
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    model = {"type": "Hub", "hub": "HuggingFace", "id": "acme/tiny", "revision": "main"}
    source = {"type": "Hub", "hub": "HuggingFace", "id": "acme/rows", "revision": "main"}
    rows = {"rows.json": json.dumps([{"instruction": "q", "output": "a"}]).encode()}
    tokens = {paths.HUB_TOKEN_ENV: "t0ken", paths.dataset_token_env(0): "d4ta"}
    dataset = {"sources": [{"source": source, "file": "rows.json"}]}
    file = config_file(tmp_path, tiny_model, model=model, dataset=dataset)
    with hub_server(tiny=Repo(files, token="t0ken"), rows=Repo(rows, token="d4ta")) as hub:
        run = subprocess.run(
            [sys.executable, "-m", "finetune_trainer.prepare", str(file)],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_ENDPOINT": hub.url, "no_proxy": "127.0.0.1", **tokens},
        )
    outcome = PrepareOutcome.model_validate_json(run.stdout)
    assert run.returncode == outcome.exit_code == 0, run.stderr
    assert outcome.model_revision == COMMIT
    assert outcome.model_dir is not None
    assert Path(outcome.model_dir).parent == tmp_path / "cache" / "models"
    assert not any(token in run.stderr + run.stdout for token in tokens.values())
