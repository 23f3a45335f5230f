"""How fast, how long and with what care is trained: what the resource's own models refuse, as the API server does."""

from typing import Any

import pytest

from finetune_operator.resource import InvalidResourceError, Qwen3FineTune, parse_resource

HELD_OUT = {"path": "rows.json", "validation": {"fraction": 0.1}}


def parsed(**spec: Any) -> Qwen3FineTune:
    blocks = {"model": {"id": "Qwen/Qwen3-8B"}, "dataset": {"path": "rows.json"}} | spec
    return parse_resource({"metadata": {"name": "r"}, "spec": blocks})


def scheduled(**schedule: Any) -> dict[str, Any]:
    return {"training": {"schedule": schedule}}


def divergence(**divergence: Any) -> dict[str, Any]:
    return {"stability": {"divergence": divergence}}


def ramped(first: int) -> dict[str, Any]:
    return {"training": {"globalBatch": {"samples": 16, "ramp": {"fromSamples": first}}}}


FOUR_GPUS = {"parallelism": {"gpusPerNode": 4}}
SIXTEEN_GPUS = {"parallelism": {"gpusPerNode": 16}}
STABLE = {"type": "WarmupStableDecay"}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (scheduled(warmupRatio=0.1, warmupSteps=5), "warmupRatio and warmupSteps both say how long the warm-up takes"),
        (scheduled(decayRatio=0.1), "go with type WarmupStableDecay; remove them for type Cosine"),
        (scheduled(type="Constant", decayShape="Linear"), "remove them for type Constant"),
        (scheduled(**STABLE, warmupRatio=0.5, decayRatio=0.6), "take more than the whole run together"),
        (scheduled(**STABLE, decayRatio=0.98), "take more than the whole run together"),
        ({"training": {"maxSteps": 10, "schedule": {"warmupSteps": 10}}}, "does not end within maxSteps 10"),
        ({"evaluation": {"patience": 3}}, "set dataset.validation.fraction, such as 0.02"),
        ({"evaluation": {"everySteps": 3}}, "set dataset.validation.fraction, such as 0.02"),
        ({"evaluation": {"keepBest": True}}, "set dataset.validation.fraction, such as 0.02"),
        ({"evaluation": {"loadBest": True}}, "set dataset.validation.fraction, such as 0.02"),
        (ramped(5), "5 samples cannot grow to 16; use a smaller divisor of that"),
        (ramped(16), "16 samples cannot grow to 16; use a smaller divisor of that"),
        (ramped(2) | FOUR_GPUS, "2 cannot be shared by 1 nodes x 4 GPUs = 4 ranks; use 4, or another number of GPUs"),
        (ramped(8) | SIXTEEN_GPUS, "8 cannot be shared by 1 nodes x 16 GPUs = 16 ranks; remove ramp, or use another"),
        (divergence(policy="Warn", rateFactor=0.1), "go with policy Treat; remove them for policy Warn"),
        (divergence(policy="Fail", remedies=["LearningRate"]), "go with policy Treat; remove them for policy Fail"),
        (divergence(remedies=[]), "stability.divergence.remedies: Tuple should have at least 1 item"),
        (divergence(policy="Ignore", factor=2), "policy Ignore never looks; remove them"),
        ({"dataset": HELD_OUT, "evaluation": {"minDelta": 0.1}}, "set patience, keepBest or loadBest as well"),
    ],
)
def test_what_contradicts_itself_is_refused(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidResourceError) as refused:
        parsed(**spec)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "spec",
    [
        scheduled(**STABLE, warmupRatio=0.4, decayRatio=0.6),
        scheduled(**STABLE, warmupSteps=5, decayRatio=1),
        {"training": {"maxSteps": 10, "schedule": {"warmupSteps": 9}}},
        {"dataset": HELD_OUT, "evaluation": {"minDelta": 0.1, "patience": 2}},
        {"dataset": {"path": "a", "validation": {"path": "b"}}, "evaluation": {"loadBest": True}},
        ramped(8) | FOUR_GPUS,
        divergence(policy="Fail", windowSteps=8, factor=1.1),
        divergence(policy="Ignore"),
    ],
)
def test_what_just_fits_is_accepted(spec: dict[str, Any]) -> None:
    parsed(**spec)


def test_remedies_for_memory_that_change_no_result_are_taken_without_being_asked_for() -> None:
    remedies = ("MicroBatch", "ActivationCheckpointing", "ShardMore", "OffloadOptimizer", "OffloadParameters")
    assert parsed().spec.recovery.on_out_of_memory == remedies
    assert parsed(recovery={"onOutOfMemory": []}).spec.recovery.on_out_of_memory == ()


@pytest.mark.parametrize(
    ("remedies", "said"),
    [
        (["QLoRA", "MicroBatch", "QLoRA"], "names a remedy twice: each is taken as often as it helps"),
        (["Pray"], "'MicroBatch', 'ActivationCheckpointing', 'ShardMore', 'OffloadOptimizer', 'OffloadParameters'"),
    ],
)
def test_remedies_are_known_and_named_once(remedies: list[str], said: str) -> None:
    with pytest.raises(InvalidResourceError, match=said):
        parsed(recovery={"onOutOfMemory": remedies})
