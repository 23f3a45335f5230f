import pytest

from finetune_contract import ExpertFacts, FullMethod, LoraMethod, ModelFacts
from finetune_operator.planning.models import SHAPES, known_model
from finetune_operator.planning.shapes import (
    active_parameters,
    layer_parameters,
    model_parameters,
    trained_parameters,
    weights,
)
from unit.planning.runs import TINY

# As the model cards and safetensors indices have them.
PARAMETERS = {
    "0.6B": 596_049_920,
    "1.7B": 1_720_574_976,
    "4B": 4_022_468_096,
    "8B": 8_190_735_360,
    "14B": 14_768_307_200,
    "32B": 32_762_123_264,
    "30B-A3B": 30_532_122_624,
    "235B-A22B": 235_093_634_560,
}
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("size", SHAPES)
def test_parameters_of_a_known_model_are_those_of_its_weight_files(size: str) -> None:
    assert model_parameters(SHAPES[size]) == PARAMETERS[size]


@pytest.mark.parametrize(
    "model_id",
    [
        "Qwen/Qwen3-8B",
        "Qwen/Qwen3-8B-Base",
        "unsloth/Qwen3-8B",
        "qwen/qwen3-8b",
        "Qwen/Qwen3-8B-Instruct-2507",
        "Qwen/Qwen3-8B-Thinking-2507",
    ],
)
def test_variants_and_mirrors_have_the_same_shape(model_id: str) -> None:
    assert known_model(model_id) == SHAPES["8B"]


def test_mixtures_are_known_too() -> None:
    assert known_model("Qwen/Qwen3-30B-A3B-Thinking-2507") == SHAPES["30B-A3B"]
    assert known_model("Qwen/Qwen3-235B-A22B") == SHAPES["235B-A22B"]


@pytest.mark.parametrize(("size", "billions"), [("8B", 8.19), ("30B-A3B", 3.35), ("235B-A22B", 22.19)])
def test_a_token_goes_through_the_active_parameters_alone(size: str, billions: float) -> None:
    assert active_parameters(SHAPES[size]) / 1e9 == pytest.approx(billions, abs=0.005)


@pytest.mark.parametrize(
    "model_id",
    [None, "Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-30B-A3B-FP8", "Qwen/Qwen2.5-7B", "me/tuned-8B"],
)
def test_an_id_that_tells_nothing_is_not_guessed(model_id: str | None) -> None:
    assert known_model(model_id) is None


def test_adapters_have_the_parameters_that_peft_reports() -> None:
    # `print_trainable_parameters` of rank 8 on all projections of Qwen3-8B
    lora = LoraMethod(rank=8, alpha=32, dropout=0, targets=ALL)
    assert trained_parameters(SHAPES["8B"], lora) == 21_823_488
    assert trained_parameters(SHAPES["8B"], lora.model_copy(update={"targets": ("all-linear",)})) == 21_823_488


def test_an_adapter_on_the_head_counts_once() -> None:
    lora = LoraMethod(rank=8, alpha=32, dropout=0, targets=("lm_head",))
    assert trained_parameters(SHAPES["8B"], lora) == 8 * (4096 + 151_936)


def test_experts_get_an_adapter_each_and_patterns_and_magnitudes_count() -> None:
    shape, attention = SHAPES["30B-A3B"], 48 * 8 * (2 * 2048 + 4096 + 2 * (2048 + 512) + 4096)
    lora = LoraMethod(rank=8, alpha=32, dropout=0, targets=("all-linear",))
    assert trained_parameters(shape, lora) == attention
    experts = lora.model_copy(update={"target_parameters": ("experts.down_proj",), "rank_pattern": {"down_proj": 2}})
    assert trained_parameters(shape, experts) == attention + 48 * 128 * 2 * (2048 + 768)
    first_layer = lora.model_copy(update={"rank_pattern": {"layers.0.self_attn.q_proj": 16}})
    assert trained_parameters(shape, first_layer) == attention + 8 * (2048 + 4096)
    dora = lora.model_copy(update={"use_dora": True, "targets": ("q_proj",)})
    assert trained_parameters(shape, dora) == 48 * (8 * (2048 + 4096) + 4096)


def test_norms_that_are_saved_are_trained_whole() -> None:
    lora = LoraMethod(rank=8, alpha=32, dropout=0, targets=("q_proj",), modules_to_save=("norm",))
    norms = 36 * (2 * 4096 + 2 * 128) + 4096
    assert trained_parameters(SHAPES["8B"], lora) == 36 * 8 * (4096 + 4096) + norms


@pytest.mark.parametrize("sparse", [False, True])
def test_names_are_those_that_the_trainer_knows(sparse: bool) -> None:
    targets = pytest.importorskip("finetune_trainer.targets")
    experts = ExpertFacts(count=8, per_token=2, intermediate_size=64, dense_layers=(1,))
    facts = TINY.model_copy(update={"tied_embeddings": False, "experts": experts if sparse else None})
    parts = targets.parts_of(facts)
    widths = {weight.name: weight.inputs for weight in weights(facts)}
    assert sorted(widths) == sorted([*parts.linear, *parts.experts, *parts.others])
    assert {name: widths[name] for name in parts.linear | parts.experts} == parts.linear | parts.experts


@pytest.mark.parametrize("facts", [TINY, SHAPES["0.6B"], SHAPES["8B"]])
def test_full_trains_everything(facts: ModelFacts) -> None:
    assert (
        trained_parameters(facts, FullMethod()) == model_parameters(facts) > facts.num_layers * layer_parameters(facts)
    )
