import pytest

from finetune_contract import FullMethod, LoraMethod, ModelFacts
from finetune_operator.planning.models import SHAPES, known_model
from finetune_operator.planning.shapes import layer_parameters, model_parameters, trained_parameters
from unit.planning.runs import TINY

# As the model cards and safetensors indices have them.
PARAMETERS = {
    "0.6B": 596_049_920,
    "1.7B": 1_720_574_976,
    "4B": 4_022_468_096,
    "8B": 8_190_735_360,
    "14B": 14_768_307_200,
    "32B": 32_762_123_264,
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


@pytest.mark.parametrize(
    "model_id", [None, "Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-30B-A3B", "Qwen/Qwen2.5-7B", "me/tuned-8B"]
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


@pytest.mark.parametrize("facts", [TINY, SHAPES["0.6B"], SHAPES["8B"]])
def test_full_trains_everything(facts: ModelFacts) -> None:
    assert (
        trained_parameters(facts, FullMethod()) == model_parameters(facts) > facts.num_layers * layer_parameters(facts)
    )
