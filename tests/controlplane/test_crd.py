"""The CRD on a real API server: what it accepts, fills in, freezes and shows."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.resource import parse_resource
from harness import ControlPlane
from harness.kubectl import Kubectl
from harness.shell import HarnessError

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds/qwen3finetunes.yaml"
START = "2026-01-02T03:04:05Z"


@pytest.fixture(scope="module")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """kubectl on a cluster that knows the CRD."""
    kubectl = control_plane.kubectl
    kubectl.apply(CRD.read_text())
    kubectl.wait("--for=condition=Established", "crd/qwen3finetunes.finetune.qwen3.io")
    return kubectl


PUSH = {"repository": "me/huanhuan", "tokenSecret": {"name": "hub", "key": "write"}}


def run(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"model": {"id": "Qwen/Qwen3-8B"}, "dataset": {"path": "huanhuan.json"}, **spec}
    return {
        "apiVersion": "finetune.qwen3.io/v1alpha1",
        "kind": "Qwen3FineTune",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def created(kubectl: Kubectl, body: dict[str, Any], *words: str) -> Any:
    return json.loads(kubectl("create", *words, "-o", "json", "-f", "-", stdin=json.dumps(body)))


def refusal(kubectl: Kubectl, body: dict[str, Any]) -> str:
    with pytest.raises(HarnessError) as refused:
        created(kubectl, body, "--dry-run=server")
    return str(refused.value)


def patch(kubectl: Kubectl, name: str, change: dict[str, Any], *words: str) -> None:
    kubectl("patch", "q3ft", name, "--type=merge", "-p", json.dumps(change), *words)


def started(kubectl: Kubectl, name: str, **spec: Any) -> None:
    created(kubectl, run(name, **spec))
    patch(kubectl, name, {"status": {"phase": "Preparing", "startTime": START}}, "--subresource=status")


# What somebody may write by mistake -> what the API server's answer must hold: field, value, remedy.
MISTAKES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown field": ({"training": {"bf16": True}}, ('unknown field "spec.training.bf16"',)),
    "both precisions": (
        {"training": {"precision": ["Bf16", "Fp16"]}},
        ("spec.training.precision", '["Bf16","Fp16"]', 'supported values: "Bf16", "Fp16", "Fp32"'),
    ),
    "misspelt precision": ({"training": {"precision": "fp16"}}, ("spec.training.precision", '"fp16"', '"Fp16"')),
    "negative rate": (
        {"training": {"learningRate": -0.1}},
        ("spec.training.learningRate", "-0.1", "should be greater than 0"),
    ),
    "rate of zero": ({"training": {"learningRate": 0}}, ("spec.training.learningRate", "should be greater than 0")),
    "batch that its ranks cannot share": (
        {"training": {"globalBatch": {"samples": 18}}, "parallelism": {"nodes": 2, "gpusPerNode": 2}},
        (
            "spec.training.globalBatch.samples",
            "18 samples cannot be shared by 2 nodes x 2 GPUs = 4 ranks",
            "a multiple",
        ),
    ),
    "batch smaller than its ranks": (
        {"training": {"globalBatch": {"samples": 2}}, "parallelism": {"gpusPerNode": 4}},
        ("spec.training.globalBatch.samples", "2 samples cannot be shared by 1 nodes x 4 GPUs = 4 ranks"),
    ),
    "lora with Full": (
        {"method": {"type": "Full", "lora": {"rank": 8}}},
        ("spec.method.lora", "goes with types LoRA and QLoRA", "remove it for type Full"),
    ),
    "a push without its Secret": (
        {"output": {"push": {"repository": "me/huanhuan"}}},
        ("spec.output.push.tokenSecret", "Required value"),
    ),
    "a push to no repository": (
        {"output": {"push": PUSH | {"repository": "huanhuan"}}},
        ("spec.output.push.repository", "must be owner/name as the hub shows it"),
    ),
    "a repository that Hugging Face refuses": (
        {"output": {"push": PUSH | {"repository": "me/huan--huan"}}},
        ("spec.output.push.repository", "repository is me/huan--huan, and a name on HuggingFace ends in"),
    ),
    "a push of what is not merged": (
        {"output": {"push": PUSH | {"what": "Both"}}},
        ("spec.output.push.what", "push.what is Both, and there is no merged model; set mergeAdapter: true"),
    ),
    "a push that chooses from a whole model": (
        {"method": {"type": "Full"}, "output": {"push": PUSH | {"what": "Adapter"}}},
        ("spec.output.push.what", "method Full makes a single whole model; remove it"),
    ),
    "rank 0": ({"method": {"lora": {"rank": 0}}}, ("spec.method.lora.rank", "0", "greater than or equal to 1")),
    "no targets": ({"method": {"lora": {"targets": []}}}, ("spec.method.lora.targets", "both empty", "name a module")),
    "dropout of one": ({"method": {"lora": {"dropout": 1}}}, ("spec.method.lora.dropout", "less than 1")),
    "two dataset sources": (
        {"dataset": {"path": "rows.json", "id": "some/rows"}},
        ("spec.dataset", "source Volume takes `path` and no other of path, url and id", "there is path id"),
    ),
    "columns of two formats": (
        {"dataset": {"path": "rows.json", "columns": {"instruction": "q", "completion": "a"}}},
        ("spec.dataset", "columns must be those of one format, and format is Auto"),
    ),
    "columns of another format": (
        {"dataset": {"path": "rows.json", "format": "Messages", "columns": {"instruction": "q"}}},
        ("spec.dataset", "columns must be those of one format, and format is Messages"),
    ),
    "an option for conversations beside plain text": (
        {"dataset": {"path": "rows.json", "format": "Text", "supervise": "LastTurn"}},
        ("spec.dataset", "format Text is learnt as it stands; thinking, supervise and systemPrompt are for"),
    ),
    "a column that no format knows": (
        {"dataset": {"path": "rows.json", "columns": {"question": "q"}}},
        ("spec.dataset.columns", "every key must be a column that a format knows: instruction, output"),
    ),
    "a column twice": (
        {"dataset": {"path": "rows.json", "columns": {"instruction": "q", "input": "q"}}},
        ("spec.dataset", "columns lets one column stand for two names; give each its own"),
    ),
    "no dataset source": ({"dataset": {}}, ("spec.dataset", "source Volume takes `path`", "there is none of them")),
    "a mix beside a source": (
        {"dataset": {"path": "rows.json", "mix": [{"path": "more.json"}]}},
        ("spec.dataset", "beside mix no other source can be named; make it one of the mix"),
    ),
    "two sources in one of a mix": (
        {"dataset": {"mix": [{"path": "rows.json"}, {"path": "more.json", "url": "s3://bucket/rows.json"}]}},
        ("spec.dataset.mix[1]", "source Volume takes `path` and no other", "there is path url"),
    ),
    "weight of zero": (
        {"dataset": {"mix": [{"path": "a.json", "weight": 0}]}},
        ("spec.dataset.mix[0].weight", "greater"),
    ),
    "one key of a pair": (
        {
            "dataset": {
                "source": "S3",
                "url": "s3://bucket/rows.json",
                "s3": {"accessKeySecret": {"name": "s3", "key": "id"}},
            }
        },
        ("spec.dataset.s3", "accessKeySecret and secretKeySecret make a pair; give both or neither"),
    ),
    "no object's address": (
        {"dataset": {"source": "S3", "url": "https://bucket/rows.json"}},
        ("spec.dataset.url", "must be s3://bucket/key"),
    ),
    "validation by fraction and source": (
        {"dataset": {"path": "rows.json", "validation": {"fraction": 0.1, "path": "held-out.json"}}},
        ("spec.dataset.validation", "fraction 0.1 takes rows of the training data", "keep one"),
    ),
    "limit without Skip": (
        {"dataset": {"path": "rows.json", "badRows": {"limit": 5}}},
        ("spec.dataset.badRows", "goes with policy Skip; remove it for policy Refuse"),
    ),
    "revision of a volume": (
        {"dataset": {"path": "rows.json", "revision": "main"}},
        ("spec.dataset", "source Volume: file, revision and tokenSecret belong to a hub"),
    ),
    "model of a volume with id": (
        {"model": {"source": "Volume", "id": "Qwen/Qwen3-8B"}},
        ("spec.model", "source Volume takes `path` and no `id`", "id is Qwen/Qwen3-8B"),
    ),
    "token for a volume": (
        {"model": {"source": "Volume", "path": "qwen", "tokenSecret": {"name": "hub", "key": "token"}}},
        ("spec.model", "revision and tokenSecret belong to a hub"),
    ),
    "no model": ({"model": None}, ("spec.model: Required value",)),
    "model id without owner": ({"model": {"id": "Qwen3-8B"}}, ("spec.model.id", '"Qwen3-8B"', "such as Qwen/Qwen3-8B")),
    "path out of the volume": (
        {"dataset": {"path": "../rows.json"}},
        ("spec.dataset.path", '"../rows.json"', "must be a path below the volume"),
    ),
    "path out of the volume, hidden": (
        {"dataset": {"path": "a/../../rows.json"}},
        ("spec.dataset.path", '"a/../../rows.json"', "no `..`"),
    ),
    "absolute path": ({"dataset": {"path": "/etc/passwd"}}, ("spec.dataset.path", '"/etc/passwd"', "not absolute")),
    "wrong strategy's block": (
        {"parallelism": {"strategy": "FSDP", "deepspeed": {"stage": 3}}},
        ("spec.parallelism.deepspeed", "goes with strategy DeepSpeed, and strategy is FSDP"),
    ),
    "offload without stage 3": (
        {"parallelism": {"strategy": "DeepSpeed", "deepspeed": {"stage": 2, "offloadParameters": "CPU"}}},
        ("spec.parallelism.deepspeed.offloadParameters", "CPU needs stage 3, and stage is 2"),
    ),
    "final ratio of a constant schedule": (
        {"training": {"schedule": {"type": "Constant", "finalRatio": 0.5}}},
        ("spec.training.schedule.finalRatio", "and it is 0.5; remove it, or use Linear"),
    ),
    "two lengths of a warm-up": (
        {"training": {"schedule": {"warmupRatio": 0.1, "warmupSteps": 5}}},
        ("spec.training.schedule.warmupSteps", "both say how long the warm-up takes; keep one"),
    ),
    "a fall of a schedule that has none": (
        {"training": {"schedule": {"type": "Linear", "decayShape": "Cosine"}}},
        ("spec.training.schedule", "go with type WarmupStableDecay; remove them for type Linear"),
    ),
    "warm-up and fall longer than the run": (
        {"training": {"schedule": {"type": "WarmupStableDecay", "warmupRatio": 0.5, "decayRatio": 0.6}}},
        ("spec.training.schedule.decayRatio", "more than the whole run together"),
    ),
    "a fall that leaves no room for the usual warm-up": (
        {"training": {"schedule": {"type": "WarmupStableDecay", "decayRatio": 0.98}}},
        ("spec.training.schedule.decayRatio", "more than the whole run together"),
    ),
    "a warm-up beyond the last step": (
        {"training": {"maxSteps": 10, "schedule": {"warmupSteps": 10}}},
        ("spec.training.schedule.warmupSteps", "a warm-up of 10 steps does not end within maxSteps"),
    ),
    "evaluation of nothing": (
        {"evaluation": {"patience": 3}},
        ("spec.evaluation", "there are none: set dataset.validation.fraction, such as 0.02"),
    ),
    "a gain that nothing depends on": (
        {"dataset": {"path": "a", "validation": {"fraction": 0.1}}, "evaluation": {"minDelta": 0.1}},
        ("spec.evaluation.minDelta", "set patience, keepBest or loadBest as well"),
    ),
    "a batch that cannot grow so": (
        {"training": {"globalBatch": {"samples": 16, "ramp": {"fromSamples": 5}}}},
        ("spec.training.globalBatch.ramp.fromSamples", "5 samples cannot grow to 16; use a smaller divisor"),
    ),
    "a first batch that its ranks cannot share": (
        {"training": {"globalBatch": {"ramp": {"fromSamples": 2}}}, "parallelism": {"gpusPerNode": 4}},
        ("spec.training.globalBatch.ramp.fromSamples", "2 samples cannot be shared by 1 nodes x 4 GPUs = 4 ranks"),
    ),
    "remedies that nobody will use": (
        {"stability": {"divergence": {"policy": "Warn", "remedies": ["LearningRate"]}}},
        ("spec.stability.divergence", "go with policy Treat; remove them for policy Warn"),
    ),
    "no remedy": (
        {"stability": {"divergence": {"remedies": []}}},
        ("spec.stability.divergence.remedies", "should have at least 1 items"),
    ),
    "a watch that never looks": (
        {"stability": {"divergence": {"policy": "Ignore", "windowSteps": 20}}},
        ("spec.stability.divergence", "policy Ignore never looks; remove them"),
    ),
    "quantity with a blank": (
        {"resources": {"memoryPerGpu": "64 GB"}},
        ("spec.resources.memoryPerGpu", '"64 GB"', "such as 8, 1500m or 64Gi"),
    ),
    "no CPU": ({"resources": {"cpuPerGpu": 0}}, ("spec.resources.cpuPerGpu", "0", "greater than or equal to 1")),
    "label key": (
        {"scheduling": {"nodeSelector": {"a b": "c"}}},
        ("spec.scheduling.nodeSelector", "every key must be a label's key"),
    ),
    "label value": (
        {"scheduling": {"nodeSelector": {"zone": "a b"}}},
        ("spec.scheduling.nodeSelector[zone]", '"a b"', "must be a label's value"),
    ),
    "a queue without a gang that has queues": (
        {"scheduling": {"queue": "research"}},
        ("spec.scheduling.queue", "goes with gang Kueue or Volcano, and gang is None"),
    ),
    "a queue for a gang that has none": (
        {"scheduling": {"queue": "research", "gang": "Coscheduling"}},
        ("spec.scheduling.queue", "goes with gang Kueue or Volcano, and gang is Coscheduling"),
    ),
    "Kueue without a queue": (
        {"scheduling": {"gang": "Kueue"}},
        ("spec.scheduling.queue", "name a LocalQueue of the run's namespace"),
    ),
    "a place in no queue": (
        {"scheduling": {"gang": "Volcano", "queuePriorityClass": "high"}},
        ("spec.scheduling.queuePriorityClass", "of gang Kueue, and gang is Volcano"),
    ),
    "a queue's name that is none": (
        {"scheduling": {"gang": "Kueue", "queue": "Research"}},
        ("spec.scheduling.queue", "must be a queue's name"),
    ),
    "a topology without a label": (
        {"scheduling": {"topology": {"mode": "Required"}}},
        ("spec.scheduling.topology.key", "Required value"),
    ),
    "an active deadline that no step could keep": (
        {"scheduling": {"activeDeadlineSeconds": 1}},
        ("spec.scheduling.activeDeadlineSeconds", "greater than or equal to 60"),
    ),
    "toleration's value": (
        {"scheduling": {"tolerations": [{"key": "gpu", "value": "yes"}]}},
        ("spec.scheduling.tolerations[0].value", "goes with operator Equal, and operator is Exists"),
    ),
    "URL without scheme": (
        {"tracking": {"swanlab": {"project": "p", "host": "swanlab.example"}}},
        ("spec.tracking.swanlab.host", '"swanlab.example"', "begins with http:// or https://"),
    ),
    "remedy twice": (
        {"recovery": {"onOutOfMemory": ["QLoRA", "MicroBatch", "QLoRA"]}},
        ("spec.recovery.onOutOfMemory", "names a remedy twice", "leave one of them out"),
    ),
    "unknown remedy": (
        {"recovery": {"onOutOfMemory": ["Pray"]}},
        ("spec.recovery.onOutOfMemory[0]", '"Pray"', "QLoRA"),
    ),
    "too many restarts": ({"recovery": {"maxRestarts": 1000}}, ("spec.recovery.maxRestarts", "1000", "equal to 100")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_field_value_and_remedy(kubectl: Kubectl, mistake: str) -> None:
    spec, expected = MISTAKES[mistake]
    said = refusal(kubectl, run("mistaken", **spec))
    for part in expected:
        assert part in said


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x" * 49, "metadata.name has 49 characters; use at most 48"),
        ("a.b", "metadata.name must be a name of lower-case letters, digits and -"),
        ("3b", "with a letter first"),
    ],
)
def test_a_name_that_makes_no_host_name_is_refused(kubectl: Kubectl, name: str, expected: str) -> None:
    said = refusal(kubectl, run(name))
    assert expected in said


def test_a_name_of_48_characters_is_accepted(kubectl: Kubectl) -> None:
    created(kubectl, run("x" * 48), "--dry-run=server")


def test_an_unknown_field_is_pruned_for_a_client_that_does_not_ask_for_validation(kubectl: Kubectl) -> None:
    live = created(kubectl, run("unvalidated", training={"bf16": True}), "--dry-run=server", "--validate=ignore")
    assert "bf16" not in live["spec"]["training"]


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_accepted(kubectl: Kubectl, example: Path) -> None:
    for body in yaml.safe_load_all(example.read_text()):
        if body["kind"] == "Qwen3FineTune":
            created(kubectl, body, "--dry-run=server")


def without_empty(value: Any) -> Any:
    """The same value, empty lists and maps left out at any depth."""
    if not isinstance(value, dict):
        return value
    kept = {key: without_empty(each) for key, each in value.items()}
    return {key: each for key, each in kept.items() if each not in ([], {})}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"method": {"lora": {}}, "training": {"schedule": {"type": "Linear"}}, "resources": {"cpuPerGpu": 4}},
        {"parallelism": {"strategy": "DeepSpeed", "deepspeed": {}}},
        {"parallelism": {"strategy": "FSDP", "fsdp": {}}},
        {"training": {"globalBatch": {"ramp": {"fromSamples": 4}}}},
        {"training": {"maxSteps": 9, "schedule": {"type": "WarmupStableDecay", "warmupSteps": 5}}},
        {"dataset": {"path": "a", "validation": {"path": "b"}}, "evaluation": {"loadBest": True}},
        {"scheduling": {"tolerations": [{"key": "gpu"}], "nodeSelector": {"zone": "a"}}},
        {"scheduling": {"gang": "Kueue", "queue": "research", "topology": {"key": "rack"}}},
        {"output": {"push": PUSH}},
    ],
    ids=["minimal", "LoRA", "DeepSpeed", "FSDP", "ramp", "schedule", "evaluation", "scheduling", "queue", "push"],
)
def test_the_api_server_fills_in_the_very_defaults_that_the_models_have(kubectl: Kubectl, spec: dict[str, Any]) -> None:
    body = run("defaulted", **spec)
    live = created(kubectl, body, "--dry-run=server")
    wanted = parse_resource(body).spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    for field in ("cpuPerGpu", "memoryPerGpu"):
        live["spec"]["resources"][field] = str(live["spec"]["resources"][field])
    assert without_empty(live["spec"]) == without_empty(wanted)  # the API server leaves an empty list absent


FREE = {
    "suspend": {"suspend": True},
    "ttl": {"scheduling": {"ttlSecondsAfterFinished": 60}},
    "restarts": {"recovery": {"maxRestarts": 7}},
    "plan to run": {"mode": "Run"},
    "push": {"output": {"push": PUSH}},
    "another push": {"output": {"push": PUSH | {"repository": "us/huanhuan"}}},
    "no push": {"output": {"push": None}},
}
FROZEN = {
    "model": {"model": {"revision": "v2"}},
    "dataset": {"dataset": {"packing": False}},
    "method": {"method": {"lora": {"rank": 16}}},
    "training": {"training": {"learningRate": 0.1}},
    "parallelism": {"parallelism": {"gpusPerNode": 4}},
    "checkpoint": {"checkpoint": {"keep": 9}},
    "evaluation": {"dataset": {"validation": {"fraction": 0.1}}, "evaluation": {"patience": 3}},
    "stability": {"stability": {"divergence": {"policy": "Warn"}}},
    "output": {"output": {"mergeAdapter": True, "push": PUSH}},
    "storage": {"storage": {"inputs": {"claimName": "other"}}},
    "tracking": {"tracking": {"swanlab": {"project": "p"}}},
    "scheduling": {"scheduling": {"nodeSelector": {"zone": "b"}}},
    "recovery": {"recovery": {"hangTimeoutSeconds": 61}},
    "resources": {"resources": {"gpuMemory": "80Gi"}},
}


def test_a_run_that_has_not_started_may_change(kubectl: Kubectl) -> None:
    created(kubectl, run("fresh"))
    for change in (*FREE.values(), *FROZEN.values()):
        patch(kubectl, "fresh", {"spec": change})


def test_a_started_run_may_be_suspended_kept_and_given_more_tries(kubectl: Kubectl) -> None:
    started(kubectl, "free", mode="Plan", scheduling={"nodeSelector": {"zone": "a"}})
    for change in FREE.values():
        patch(kubectl, "free", {"spec": change})


def test_nothing_else_of_a_started_run_may_change(kubectl: Kubectl) -> None:
    started(kubectl, "frozen", scheduling={"nodeSelector": {"zone": "a"}})
    for block, change in FROZEN.items():
        with pytest.raises(HarnessError) as refused:
            patch(kubectl, "frozen", {"spec": change})
        said = str(refused.value)
        assert f"spec.{block}: Forbidden: spec.{block} cannot change once the run has started" in said
        assert "create a run under another name instead" in said


def test_a_started_run_does_not_go_back_to_planning(kubectl: Kubectl) -> None:
    started(kubectl, "running")
    with pytest.raises(HarnessError, match=r"spec\.mode: Forbidden"):
        patch(kubectl, "running", {"spec": {"mode": "Plan"}})


def test_status_is_written_by_its_own_subresource_alone(kubectl: Kubectl) -> None:
    live = created(kubectl, run("stateful") | {"status": {"phase": "Succeeded"}})
    assert "status" not in live
    patch(kubectl, "stateful", {"status": {"phase": "Running"}, "spec": {"suspend": True}}, "--subresource=status")
    live = kubectl.json("get", "q3ft", "stateful")
    assert live["status"] == {"phase": "Running"}
    assert live["spec"]["suspend"] is False
    assert live["metadata"]["generation"] == 1
    with pytest.raises(HarnessError, match=r'status\.phase: Unsupported value: "Dreaming"'):
        patch(kubectl, "stateful", {"status": {"phase": "Dreaming"}}, "--subresource=status")


STATUS = {
    "phase": "Running",
    "queue": "research #3",
    "plan": {
        "model": "Qwen/Qwen3-8B",
        "method": "QLoRA",
        "strategy": "FSDP",
        "nodes": 2,
        "gpus": 8,
        "microBatch": 2,
        "accumulationSteps": 1,
        "globalBatch": 16,
        "activationCheckpointing": "None",
        "memoryBytes": 1,
        "batch": "2 x 8 = 16",
        "final": True,
    },
    "progress": {
        "attempt": 2,
        "stage": "Training",
        "step": 42,
        "totalSteps": 100,
        "percent": "42%",
        "epoch": 1.26,
        "loss": "1.2345",
        "tokensPerSecond": 16261,
        "eta": "1h12m",
        "peakMemory": "53.9Gi",
        "updatedAt": START,
    },
    "restarts": 1,
}


def test_columns_show_the_run(kubectl: Kubectl) -> None:
    created(kubectl, run("shown"))
    patch(kubectl, "shown", {"status": STATUS}, "--subresource=status")
    header, values = (line.split() for line in kubectl("get", "q3ft", "shown").splitlines())
    assert header == ["NAME", "PHASE", "PROGRESS", "STEP", "LOSS", "ETA", "GPUS", "RESTARTS", "AGE"]
    assert values[:-1] == ["shown", "Running", "42%", "42", "1.2345", "1h12m", "8", "1"]
    header, values = (line.split() for line in kubectl("get", "q3ft", "shown", "-o", "wide").splitlines())
    assert header[8:13] == ["MODEL", "METHOD", "STRATEGY", "TOK/S", "PEAK-MEM"]
    assert values[8:13] == ["Qwen/Qwen3-8B", "QLoRA", "FSDP", "16261", "53.9Gi"]
    assert "QUEUE" in header
    assert "research #3" in kubectl("get", "q3ft", "shown", "-o", "wide")


def test_runs_are_selected_by_phase_and_found_by_short_name_and_category(kubectl: Kubectl) -> None:
    created(kubectl, run("selected"))
    patch(kubectl, "selected", {"status": {"phase": "Restarting"}}, "--subresource=status")
    selected = kubectl("get", "q3ft", "--field-selector=status.phase=Restarting", "-o", "name").split()
    assert selected == ["qwen3finetune.finetune.qwen3.io/selected"]
    assert "qwen3finetune.finetune.qwen3.io/selected" in kubectl("get", "finetune", "-o", "name").split()


def test_explain_describes_every_field(kubectl: Kubectl) -> None:
    lora = kubectl("explain", "q3ft.spec.method.lora")
    assert "Low-rank adapters on linear projections." not in lora  # the field's own words win
    assert "Settings of LoRA and QLoRA; default: rank 8, alpha 32 on all linear modules." in lora
    assert "The update is scaled by alpha / rank, with useRslora by alpha / sqrt(rank)." in lora
    tree = kubectl("explain", "q3ft", "--recursive")
    for field in ("globalBatch", "offloadParameters", "claimName", "hangTimeoutSeconds", "packingEfficiency"):
        assert field in tree


def condition(kind: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True",
        "reason": "Tested",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": START,
    }


def test_conditions_of_two_owners_are_merged_by_type(kubectl: Kubectl) -> None:
    created(kubectl, run("merged"))
    for owner, kind in (("operator", "Planned"), ("queue", "Suspended")):
        body = run("merged") | {"status": {"conditions": [condition(kind)]}}
        del body["spec"]
        kubectl.apply(body, "--subresource=status", f"--field-manager={owner}")
    conditions = kubectl.json("get", "q3ft", "merged")["status"]["conditions"]
    assert [each["type"] for each in conditions] == ["Planned", "Suspended"]


def test_the_api_server_finds_nothing_wrong_with_the_definition(kubectl: Kubectl) -> None:
    live = kubectl.json("get", "crd", "qwen3finetunes.finetune.qwen3.io")
    conditions = {each["type"]: each["status"] for each in live["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"
    assert live["spec"]["names"]["shortNames"] == ["q3ft"]
