"""`qft` on this machine with the real trainer: two CPU ranks, a tiny Qwen3 with random weights, forty steps or so."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.backends.local import processes
from support.push_hub import OWNER, READ_TOKEN, TOKEN, push_hub

EXAMPLES = Path(__file__).parents[2] / "examples"
SCARCE = Path(__file__).parents[1] / "support" / "scarce"
STEPS = 40
PATIENCE_SECONDS = 300


class Laptop:
    """A folder with a model, a dataset and a YAML file for every run; the cache is shared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, name: str, **blocks: dict[str, Any]) -> Path:
        """The quickstart under another name and shorter, with these blocks of its spec changed."""
        resource = yaml.safe_load((EXAMPLES / "quickstart.yaml").read_text())
        resource["metadata"]["name"] = name
        changes = {"training": {"maxSteps": STEPS}, "checkpoint": {"everySteps": 5, "keep": 2}} | blocks
        for block, fields in changes.items():
            resource["spec"][block] = resource["spec"].get(block, {}) | fields
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(resource))
        return file

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """`qft` in the background."""
        command = [sys.executable, "-c", "from finetune_operator.cli import main; main()", *map(str, arguments)]
        return subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, file: Path, *options: str) -> tuple[int, str]:
        """`qft run`, to its end: exit code and output."""
        process = self.start("run", file.name, "--cache", "cache", *options)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, output

    def status(self, name: str) -> dict[str, Any]:
        """The run's status as it stands."""
        status: dict[str, Any] = json.loads((self.folder / "runs" / name / "status.json").read_text())
        return status

    def uid(self, name: str) -> str:
        """The run's uid, with which its processes are marked."""
        resource = json.loads((self.folder / "runs" / name / "resource.json").read_text())
        return str(resource["metadata"]["uid"])

    def losses(self, name: str) -> list[tuple[int, float]]:
        """Step and loss of every step that counts: of a step that was done twice, the later one."""
        files = sorted((self.folder / "runs" / name / "attempts").glob("*/losses.jsonl"))
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return sorted({line["step"]: line["loss"] for line in lines}.items())

    def wait_for(self, name: str, is_true: Callable[[dict[str, Any]], bool]) -> None:
        """Until the status is so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if (self.folder / "runs" / name / "status.json").exists() and is_true(self.status(name)):
                return
            time.sleep(0.1)
        pytest.fail(f"{name} never came so far: {self.status(name)}")


def has_done(steps: int) -> Callable[[dict[str, Any]], bool]:
    return lambda status: status.get("progress", {}).get("step", 0) >= steps


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    folder = tmp_path_factory.mktemp("laptop")
    subprocess.run([sys.executable, EXAMPLES / "tiny" / "make_model.py", folder / "tiny" / "model"], check=True)
    (folder / "huanhuan.json").symlink_to(EXAMPLES / "huanhuan.json")
    return Laptop(folder)


@pytest.fixture(scope="module")
def unbroken(laptop: Laptop) -> tuple[Path, str]:
    """A run that nobody disturbs."""
    file = laptop.file("unbroken")
    code, output = laptop.run(file)
    assert code == 0, output
    return file, output


def test_a_run_comes_to_its_end_and_its_loss_falls(laptop: Laptop, unbroken: tuple[Path, str]) -> None:
    _, output = unbroken
    losses = [loss for _, loss in laptop.losses("unbroken")]
    assert len(losses) == STEPS
    assert sum(losses[-5:]) < sum(losses[:5])
    assert laptop.status("unbroken")["phase"] == "Succeeded"
    assert (laptop.folder / "runs" / "unbroken" / "adapter" / "adapter_model.safetensors").exists()
    assert "from_pretrained" in output


def test_the_same_command_after_the_end_says_that_it_is_done(laptop: Laptop, unbroken: tuple[Path, str]) -> None:
    file, _ = unbroken
    code, output = laptop.run(file)
    assert code == 0
    assert output.startswith(f"done: {STEPS} steps")
    assert "sha256:" in output
    assert len(laptop.status("unbroken")["attempts"]) == 1


def test_another_learning_rate_under_the_same_name_is_refused(laptop: Laptop, unbroken: tuple[Path, str]) -> None:
    code, output = laptop.run(laptop.file("unbroken", training={"maxSteps": STEPS, "learningRate": 0.1}))
    laptop.file("unbroken")
    assert code == 64
    assert "spec.training.learningRate was 0.005 and is 0.1" in output


def test_a_run_that_is_interrupted_goes_on_and_ends_with_the_same_losses(
    laptop: Laptop, unbroken: tuple[Path, str]
) -> None:
    file = laptop.file("interrupted")
    process = laptop.start("run", file.name, "--cache", "cache")
    laptop.wait_for("interrupted", has_done(7))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 75, output
    assert laptop.status("interrupted")["phase"] == "Suspended"
    assert not processes.marked(laptop.uid("interrupted"))
    code, output = laptop.run(file)
    assert code == 0, output
    first, second = laptop.status("interrupted")["attempts"]
    assert (first["cause"], first["decision"], first["stepsLost"]) == ("Suspended", "Suspend", 0)
    assert second["resumedFromStep"] == first["lastStep"]
    assert laptop.losses("interrupted") == laptop.losses("unbroken")


def test_a_killed_rank_costs_one_attempt_and_no_precision(laptop: Laptop, unbroken: tuple[Path, str]) -> None:
    file = laptop.file("killed")
    process = laptop.start("run", file.name, "--cache", "cache")
    laptop.wait_for("killed", lambda status: status.get("checkpoint", {}).get("step", 0) >= 5)
    os.kill(rank_process(laptop.uid("killed"), 1), signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, output
    status = laptop.status("killed")
    first, second = status["attempts"]
    assert (first["cause"], first["reason"], first["decision"]) == ("Infrastructure", "RankKilled", "Retry")
    assert second["resumedFromStep"] >= 5
    assert (status["restarts"], status["failures"]) == (1, 1)
    assert laptop.losses("killed") == laptop.losses("unbroken")


def test_workers_outlive_a_killed_qft_and_the_next_one_adopts_them(laptop: Laptop, unbroken: tuple[Path, str]) -> None:
    file = laptop.file("adopted", parallelism={"nodes": 2, "gpusPerNode": 1})
    process = laptop.start("run", file.name, "--cache", "cache")
    laptop.wait_for("adopted", has_done(5))
    process.kill()
    process.communicate()
    assert processes.marked(laptop.uid("adopted"))
    code, output = laptop.run(file)
    assert code == 0, output
    assert len(laptop.status("adopted")["attempts"]) == 1
    assert laptop.losses("adopted") == laptop.losses("unbroken"), "two nodes of one rank are one node of two"


def test_a_rank_that_is_refused_memory_costs_one_attempt_and_halves_the_micro_batch(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen sequences of 512 tokens at once take 600 MB beside the process itself, and eight take 390."""
    monkeypatch.setenv("PYTHONPATH", str(SCARCE))
    monkeypatch.setenv("SCARCE_BYTES", str(500 * 2**20))
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # else every thread reserves address space
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole = {"gpusPerNode": 1, "microBatch": 16}
    training = {"maxSteps": 1, "globalBatch": {"samples": 16}}
    file = laptop.file("scarce", dataset={"maxTokens": 512}, training=training, parallelism=whole)
    code, output = laptop.run(file)
    assert code == 0, output
    status = laptop.status("scarce")
    first, second = status["attempts"]
    assert (first["cause"], first["decision"], first["remedy"]) == ("OutOfMemory", "Remedy", "MicroBatch")
    assert "you tried to allocate" in first["message"]
    assert second["cause"] == "Done"
    plan = status["plan"]
    assert (plan["microBatch"], plan["accumulationSteps"], plan["globalBatch"]) == (8, 2, 16)
    assert (
        "Remedied: attempt 1 ran out of memory with micro-batch 16 and 1 accumulation step; attempt 2 runs with "
        "micro-batch 8 and 2 accumulation steps: the global batch stays 16 sequences" in output
    )
    assert (status["restarts"], status["failures"]) == (1, 0)


def test_bad_rows_are_refused_with_their_place_and_a_mended_file_runs(laptop: Laptop) -> None:
    rows = [{"instruction": f"a{number}", "input": "", "output": "b"} for number in range(20)]
    (laptop.folder / "rows.json").write_text(json.dumps([*rows, {"instruction": "no answer"}]))
    file = laptop.file("mended", dataset={"path": "rows.json"}, training={"maxSteps": 1})
    code, output = laptop.run(file)
    assert code == 64
    assert laptop.status("mended")["phase"] == "Failed"
    assert "failed: " in output
    assert "log: " in output
    (laptop.folder / "rows.json").write_text(json.dumps(rows))
    code, output = laptop.run(file)
    assert code == 0, output


def test_what_a_finished_run_made_is_pushed_once_and_a_refusal_costs_only_the_push(
    laptop: Laptop, unbroken: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = laptop.folder / "runs" / "unbroken" / "adapter" / "adapter_model.safetensors"
    push = {"repository": f"{OWNER}/huanhuan", "tokenSecret": {"name": "hub", "key": "token"}}
    file = laptop.file("unbroken", output={"push": push})
    (laptop.folder / "token").write_text(f"{TOKEN}\n")
    with push_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("FINETUNE_PUSH_TOKEN", READ_TOKEN)
        code, output = laptop.run(file)
        assert code == 64, output
        assert "failed: PushForbidden" in output
        assert laptop.status("unbroken")["phase"] == "Failed"
        assert adapter.exists()
        assert f"Adapter: {adapter.parent}" in output
        code, output = laptop.run(file, "--push-token", "token")
        assert code == 0, output
        assert f"pushed to {hub.url}/{OWNER}/huanhuan" in output
        assert hub.repositories[f"{OWNER}/huanhuan"].files("main")[adapter.name] == adapter.read_bytes()
        requests = len(hub.requests)
        code, output = laptop.run(file, "--push-token", "token")
        assert (code, len(hub.requests)) == (0, requests), "it stands there, and nobody is asked"
    status = laptop.status("unbroken")
    assert (status["phase"], len(status["attempts"]), status["push"]["number"]) == ("Succeeded", 1, 2)
    written = [each.read_bytes() for each in (laptop.folder / "runs").rglob("*") if each.is_file()]
    assert not any(token.encode() in text for token in (TOKEN, READ_TOKEN) for text in written)


def rank_process(uid: str, rank: int) -> int:
    """The process of this rank."""
    for process_id in processes.marked(uid):
        environment = Path(f"/proc/{process_id}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in environment:
            return process_id
    pytest.fail(f"rank {rank} is not there")
