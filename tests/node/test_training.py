"""The main job on a real cluster: `kubectl apply` to an adapter that lowers the loss, for each strategy."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import addresses
from support.kit import HUB_PORT, TEAM, Kit, finetune
from support.push_hub import OWNER, TOKEN, push_hub

STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "DDP"},
    "fsdp": {"strategy": "FSDP"},
    "zero2": {"strategy": "DeepSpeed", "deepspeed": {"stage": 2}},
    "zero3-offload": {
        "strategy": "DeepSpeed",
        "deepspeed": {"stage": 3, "offloadOptimizer": "CPU", "offloadParameters": "CPU"},
    },
}

HELD_OUT = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, rows = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
def loss():
    total, count = 0.0, 0
    for row in json.load(open(rows)):
        prompt = [{"role": "user", "content": row["instruction"]}]
        known = dict(tokenize=True, return_dict=False, enable_thinking=False)
        start = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, **known)
        answer = tokenizer(row["output"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*start, *answer]])
        logits = model(ids).logits[0, len(start) - 1 : -1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, len(start) :], reduction="sum").item()
        count += len(answer)
    return total / count
with torch.no_grad():
    trained = loss()
    with model.disable_adapter():
        untrained = loss()
print(json.dumps({"trained": trained, "untrained": untrained}))
"""


@pytest.fixture(scope="session")
def held_out(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that no run of this file has seen: the last tenth of the slice, taken out of the volume's file."""
    rows = json.loads((inputs / "huanhuan.json").read_text())
    split = len(rows) * 9 // 10
    file = tmp_path_factory.mktemp("held-out") / "rows.json"
    file.write_text(json.dumps(rows[split:], ensure_ascii=False))
    (inputs / "huanhuan.json").write_text(json.dumps(rows[:split], ensure_ascii=False, indent=1))
    return file


@pytest.fixture(scope="session")
def trained(kit: Kit, inputs: Path, held_out: Path) -> Kit:
    """The kit with the shortened data on its volume."""
    assert held_out.exists()
    kit.put_inputs(inputs)
    return kit


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_of_two_nodes_succeeds_and_its_adapter_lowers_the_loss_on_held_out_rows(
    trained: Kit, inputs: Path, held_out: Path, name: str
) -> None:
    parallelism = {"nodes": 2, "gpusPerNode": 1, **STRATEGIES[name]}
    run = finetune(name, parallelism=parallelism)
    if name == "zero3-offload":  # what is offloaded has to fit into host memory: the plan refuses less
        run["spec"]["resources"]["memoryPerGpu"] = "8Gi"
    trained.apply(run)
    status = trained.wait_phase(name, "Succeeded")["status"]
    assert status["progress"]["percent"] == "100%"
    assert status["restarts"] == 0
    losses = trained.losses(name)
    assert sorted(losses) == list(range(1, 13))
    adapter = trained.volume(f"{name}-output") / Path(status["artifacts"][0]["path"]).relative_to("/output")
    command = [sys.executable, "-c", HELD_OUT, str(inputs / "tiny"), str(adapter), str(held_out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["trained"] < figures["untrained"] - 0.2, figures


def test_the_strategies_have_the_same_losses(trained: Kit) -> None:
    reference = trained.losses("ddp")
    for name in STRATEGIES:
        losses = trained.losses(name)
        assert losses == pytest.approx(reference, rel=1e-4), name


def test_pods_are_restricted_and_hold_no_credentials(trained: Kit) -> None:
    pods = trained.pods("ddp")
    assert len(pods) == 3
    for pod in pods:
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert not any("token" in str(volume) for volume in spec["volumes"])
        gpus = [container["resources"]["limits"].get("nvidia.com/gpu") for container in spec["containers"]]
        is_worker = pod["metadata"]["labels"]["finetune.qwen3.io/role"] == "worker"
        assert gpus == (["1"] if is_worker else [None])


def test_what_a_finished_run_made_is_pushed_by_a_pod_of_its_own(trained: Kit) -> None:
    kubectl, secret = trained.cluster.kubectl, {"name": "hub", "key": "token"}
    kubectl("-n", TEAM, "create", "secret", "generic", secret["name"], f"--from-literal={secret['key']}={TOKEN}")
    with push_hub(addresses.NODE, HUB_PORT) as hub:
        trained.patch("fsdp", {"output": {"push": {"repository": f"{OWNER}/huanhuan", "tokenSecret": secret}}})
        kubectl("-n", TEAM, "wait", "--for=condition=Pushed", "qwen3finetune/fsdp", "--timeout=120s")
        files = hub.repositories[f"{OWNER}/huanhuan"].files("main")
    status = trained.wait_phase("fsdp", "Succeeded")["status"]
    adapter = trained.volume("fsdp-output") / "fsdp" / "adapter" / "adapter_model.safetensors"
    assert files[adapter.name] == adapter.read_bytes()
    assert status["artifacts"][0]["pushed"]["url"].startswith(f"{hub.url}/{OWNER}/huanhuan/")
    (pod,) = trained.pods("fsdp", role="push")
    (container,) = pod["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert TOKEN not in kubectl("-n", TEAM, "logs", pod["metadata"]["name"])


def test_events_tell_the_story(trained: Kit) -> None:
    events = trained.cluster.kubectl("-n", TEAM, "events", "--for", "qwen3finetune/ddp")
    for reason in ("Planned", "Prepared", "AttemptStarted", "Succeeded"):
        assert reason in events
