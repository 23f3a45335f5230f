"""What rank 0 serves and writes down."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from finetune_contract import Progress, RunConfig, Stage
from finetune_contract.paths import PROGRESS_PORT_FILE_ENV
from finetune_trainer.distributed import World
from finetune_trainer.failures import UserError
from finetune_trainer.reporting import Reporter
from multiproc.cases import config, train


def fetched(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


@pytest.fixture
def port_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a laptop finds the port."""
    monkeypatch.setenv(PROGRESS_PORT_FILE_ENV, str(tmp_path / "port"))
    return tmp_path / "port"


def run(tmp_path: Path) -> RunConfig:
    return config(tmp_path / "out", tmp_path, tmp_path)


def test_progress_and_metrics_are_those_of_the_last_step(tmp_path: Path, port_file: Path) -> None:
    with Reporter(run(tmp_path), total_steps=10, active=True) as reporter:
        port = int(port_file.read_text())
        before = Progress.model_validate_json(fetched(port, "/progress"))
        assert (before.stage, before.step, before.loss) == (Stage.LOADING, 0, None)
        assert "finetune_loss" not in fetched(port, "/metrics")
        reporter.step_done(tokens=77, mfu=0.5, step=3, loss=0.1 + 0.2, learning_rate=1e-3, grad_norm=1.5)
        after = Progress.model_validate_json(fetched(port, "/progress"))
        assert (after.step, after.loss) == (3, 0.1 + 0.2)
        assert "finetune_loss 0.30000000000000004" in fetched(port, "/metrics")
        assert "finetune_mfu_ratio 0.5" in fetched(port, "/metrics")
        with pytest.raises(urllib.error.HTTPError):
            fetched(port, "/etc/passwd")
    line = json.loads((tmp_path / "out" / "attempts" / "1" / "losses.jsonl").read_text())
    assert line == {"step": 3, "loss": 0.1 + 0.2, "grad_norm": 1.5, "learning_rate": 1e-3, "tokens": 77}


def test_a_taken_port_is_a_user_error(tmp_path: Path, port_file: Path) -> None:
    with Reporter(run(tmp_path), total_steps=10, active=True):
        taken = run(tmp_path).model_copy(update={"progress_port": int(port_file.read_text())})
        with pytest.raises(UserError, match="cannot be served on"), Reporter(taken, total_steps=10, active=True):
            pass


def test_other_ranks_serve_and_write_nothing(tmp_path: Path, port_file: Path) -> None:
    with Reporter(run(tmp_path), total_steps=10, active=False) as reporter:
        reporter.step_done(tokens=1, mfu=None, step=1, loss=1.0)
    assert not port_file.exists()
    assert not (tmp_path / "out").exists()


def test_attempts_continue_one_offline_swanlab_run(tmp_path: Path, model: Path, tokens: Path, alone: World) -> None:
    pytest.importorskip("swanlab")
    tracked = config(
        tmp_path, model, tokens, max_steps=1, swanlab={"project": "qwen3", "mode": "offline"},
        run={"name": "tracked", "namespace": "tests", "uid": "0A1b-22"},
    )  # fmt: skip
    train(alone, tracked)
    train(alone, tracked.model_copy(update={"attempt": 2}))
    names = {folder.name.rpartition("-")[2] for folder in (tmp_path / "swanlab").glob("run-*")}
    assert names == {"0a1b_22"}
