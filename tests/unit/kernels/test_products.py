"""The fast path's operations against the same in plain words, and their gradients against finite differences."""

import pytest
import torch
from torch import Tensor

from finetune_trainer.kernels import fp8, head_loss, lora_linear

T, D, E, R = 7, 6, 5, 3


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("input_learns", [True, False])
def test_a_product_with_its_adapter_is_what_the_plain_words_say(input_learns: bool) -> None:
    x_TD, weight_ED, a_RD, b_ER, dy_TE = tensors((T, D), (E, D), (R, D), (E, R), (T, E))
    answers = []
    for product in (lora_linear.lora_linear, lora_linear.reference):
        leaves = [
            x_TD.clone().requires_grad_(input_learns),
            a_RD.clone().requires_grad_(),
            b_ER.clone().requires_grad_(),
        ]
        y_TE = product(leaves[0], weight_ED, leaves[1], leaves[2])
        torch.autograd.backward(y_TE, dy_TE)
        answers.append([y_TE.detach(), *(leaf.grad for leaf in leaves)])
    for fast, plain in zip(*answers, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)
    assert (answers[0][1] is None) is not input_learns


def test_gradients_of_the_product_match_finite_differences() -> None:
    x_TD, weight_ED, a_RD, b_ER = tensors((T, D), (E, D), (R, D), (E, R))
    leaves = [each.requires_grad_() for each in (x_TD, a_RD, b_ER)]
    assert torch.autograd.gradcheck(lambda x, a, b: lora_linear.lora_linear(x, weight_ED, a, b), leaves)


def test_the_operation_keeps_the_rules_of_torch() -> None:
    x_TD, weight_ED, a_RD, b_ER = tensors((T, D), (E, D), (R, D), (E, R), dtype=torch.float32)
    sample = (x_TD.requires_grad_(), weight_ED, a_RD.requires_grad_(), b_ER.requires_grad_())
    torch.library.opcheck(torch.ops.qwen3_finetune.lora_linear, sample)


@pytest.mark.parametrize("block_positions", [1, 4, 100])
def test_the_loss_of_blocks_is_the_loss_of_all(block_positions: int) -> None:
    hidden_SD, weight_VD = tensors((10, D), (23, D))
    targets_S = torch.arange(10) * 2
    answers = []
    for blocks in (True, False):
        hidden, weight = hidden_SD.clone().requires_grad_(), weight_VD.clone().requires_grad_()
        if blocks:
            loss = head_loss.summed_cross_entropy(hidden, weight, targets_S, block_positions=block_positions)
        else:
            loss = head_loss.reference(hidden, weight, targets_S)
        torch.autograd.backward(loss / 7)
        answers.append((loss.detach(), hidden.grad, weight.grad))
    for fast, plain in zip(*answers, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6, check_dtype=False)  # the loss is summed in fp32


def test_no_supervised_position_is_a_loss_of_zero_with_a_graph() -> None:
    hidden, weight = torch.zeros(0, D, requires_grad=True), torch.ones(23, D)
    loss = head_loss.summed_cross_entropy(hidden, weight, torch.zeros(0, dtype=torch.int64))
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0
    assert hidden.grad is not None


def test_scaling_by_the_number_of_tokens_is_not_rounded_to_the_hidden_dtype() -> None:
    """1/1,001 in bf16 is 0.1 % off; every gradient would be."""
    hidden_SD, weight_VD = tensors((4, D), (23, D), dtype=torch.bfloat16)
    hidden = hidden_SD.requires_grad_()
    whole = torch.autograd.grad(head_loss.summed_cross_entropy(hidden, weight_VD, torch.arange(4)), hidden)[0]
    share = torch.autograd.grad(head_loss.summed_cross_entropy(hidden, weight_VD, torch.arange(4)) / 1001, hidden)[0]
    torch.testing.assert_close(share.float(), (whole.float() / 1001).bfloat16().float(), rtol=0, atol=0)


def test_quantised_rows_are_within_half_a_step_of_what_they_stand_for() -> None:
    (x_TD,) = tensors((64, 256), dtype=torch.float32)
    x_TD[3] *= 1000
    x_TD[5] = 0
    rows, scales = fp8.quantised(x_TD)
    assert rows.dtype is fp8.FP8
    assert scales.shape == (64, 1)
    error = (rows.float() * scales - x_TD).abs()
    # e4m3 has three bits of mantissa; below the smallest normal number the step is 2**-9
    assert (error <= (x_TD.abs() * 2**-4).maximum(scales * 2**-10) * 1.001).all()
