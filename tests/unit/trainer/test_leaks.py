"""No document of a micro-batch sees another: not in its logits, not in its gradients, with or without recomputation.

Shape letters: T tokens of a micro-batch, D width of the model.
"""
# ruff: noqa: N806 - tensors carry shape letters

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from finetune_contract import BatchConfig, LoraMethod
from finetune_trainer.data.batch import MicroBatch
from finetune_trainer.data.loader import open_tokens, training_steps
from finetune_trainer.loss import summed_loss, supervised_logits
from finetune_trainer.methods import lora
from finetune_trainer.model import (
    WeightFiles,
    load_config,
    materialise,
    move_buffers,
    recompute_activations,
    skeleton,
)
from multiproc.cases import LORA
from support.devices import IDS, WAYS
from support.tiny import tiny_mixture_dir


class Trained:
    """The tiny model as the trainer builds it, on a device, in a dtype, and with recomputation or without."""

    def __init__(
        self, folder: Path, device: str, dtype: torch.dtype, *, recompute: bool, adapters: bool = False
    ) -> None:
        self.device = torch.device(device)
        self.model: PreTrainedModel = skeleton(load_config(str(folder)))
        source = WeightFiles(folder).read
        if recompute:
            recompute_activations(self.model)
        if adapters:
            method = LoraMethod.model_validate(LORA)
            self.model = lora.apply(self.model, method, base_name="tiny")
            source = lora.initial_values(method, WeightFiles(folder), seed=3)  # type: ignore[assignment]
        for parameter in self.model.parameters():
            parameter.data = parameter.data.to(dtype)
        materialise(self.model, source, self.device)
        move_buffers(self.model, self.device)
        self.model.train()

    def logits(self, micro: MicroBatch) -> Tensor:
        """At every position, [T, V]."""
        everywhere = torch.arange(micro.input_ids_1T.numel())
        with torch.no_grad():
            return supervised_logits(
                self.model, replace(micro, supervised_S=everywhere).to(str(self.device)), self.device
            )

    def loss(self, micro: MicroBatch) -> Tensor:
        """Summed over the supervised positions."""
        return summed_loss(self.model, micro.to(str(self.device)), self.device)


@pytest.fixture(scope="module")
def micro(tokens: Path) -> MicroBatch:
    """Four sequences of several documents each, side by side."""
    batch = BatchConfig(global_sequences=4, micro_sequences=4, accumulation_steps=1, world_size=1)
    first = next(iter(training_steps(open_tokens(tokens), batch=batch, epochs=1, max_steps=1, seed=1, rank=0)))
    assert len(first.micro_batches[0].document_offsets) > 6
    return first.micro_batches[0]


def spans(micro: MicroBatch) -> list[slice]:
    return [slice(*pair) for pair in pairwise(micro.document_offsets)]


def only(micro: MicroBatch, span: slice) -> MicroBatch:
    """The same input, of which one document alone is supervised."""
    inside = (micro.supervised_S >= span.start) & (micro.supervised_S < span.stop)
    return replace(micro, supervised_S=micro.supervised_S[inside], targets_S=micro.targets_S[inside])


def alone(micro: MicroBatch, span: slice) -> MicroBatch:
    """One document as a micro-batch of its own."""
    part, length = only(micro, span), span.stop - span.start
    return MicroBatch(
        input_ids_1T=micro.input_ids_1T[:, span], position_ids_1T=torch.arange(length)[None],
        document_offsets=(0, length), longest_document=length, supervised_S=part.supervised_S - span.start,
        targets_S=part.targets_S,
    )  # fmt: skip


@pytest.mark.parametrize(("device", "dtype"), WAYS, ids=IDS)
def test_perturbing_any_document_moves_no_logit_of_another(
    micro: MicroBatch, model: Path, device: str, dtype: torch.dtype
) -> None:
    trained = Trained(model, device, dtype, recompute=False)
    before = trained.logits(micro)
    for span in spans(micro):
        ids_1T = micro.input_ids_1T.clone()
        ids_1T[:, span] = (ids_1T[:, span] + 500) % 1024
        moved = (trained.logits(replace(micro, input_ids_1T=ids_1T)) != before).any(dim=1)
        assert bool(moved[span].all()), "its own logits do move"
        assert int(moved.sum()) == span.stop - span.start, f"{span}: bit for bit the same elsewhere"


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("device", "dtype"), WAYS, ids=IDS)
def test_the_loss_of_a_document_has_no_gradient_in_another(
    micro: MicroBatch, model: Path, device: str, dtype: torch.dtype, recompute: bool
) -> None:
    trained = Trained(model, device, dtype, recompute=recompute)
    for span in spans(micro)[:4]:
        with embeddings_of(trained.model) as seen:
            torch.autograd.backward(trained.loss(only(micro, span)))
        gradient_TD = seen()[0]
        reached = gradient_TD.abs().sum(dim=1) > 0
        # the last token predicts nothing, and reaches a prediction of its document only if one comes after it
        last = int(only(micro, span).supervised_S.max()) + 1
        assert reached.nonzero().flatten().tolist() == list(range(span.start, last))
        trained.model.zero_grad()


class embeddings_of:  # noqa: N801 - reads as a function
    """Collects the gradient of what the embedding gives, while it is open."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._outputs: list[Tensor] = []

    def __enter__(self) -> Callable[[], Tensor]:
        self._handle = self._model.get_input_embeddings().register_forward_hook(self._keep)
        return self._gradient

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _keep(self, _module: torch.nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        self._outputs.append(output)

    def _gradient(self) -> Tensor:
        (output,) = self._outputs
        assert output.grad is not None
        return output.grad


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_a_packed_batch_has_loss_and_gradients_of_its_documents_one_by_one(
    micro: MicroBatch, model: Path, recompute: bool
) -> None:
    trained = Trained(model, "cpu", torch.float32, recompute=recompute)
    together = trained.loss(micro)
    torch.autograd.backward(together)
    expected = {name: each.grad for name, each in trained.model.named_parameters()}
    trained.model.zero_grad(set_to_none=True)
    losses = [trained.loss(alone(micro, span)) for span in spans(micro)]
    torch.autograd.backward(torch.stack(losses).sum())
    torch.testing.assert_close(sum(losses), together, rtol=1e-6, atol=0)
    found = {name: each.grad for name, each in trained.model.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_every_adapter_learns_from_every_document(micro: MicroBatch, model: Path, recompute: bool) -> None:
    trained = Trained(model, "cpu", torch.float32, recompute=recompute, adapters=True)
    for span in spans(micro):
        trained.model.zero_grad(set_to_none=True)
        torch.autograd.backward(trained.loss(only(micro, span)))
        norms = {name: each.grad.norm() for name, each in trained.model.named_parameters() if each.grad is not None}
        assert len(norms) == 2 * 3 * 4, "A and B of three projections in four layers"
        lora.check_gradients(norms)


def test_positions_restart_with_every_document(micro: MicroBatch, model: Path) -> None:
    trained = Trained(model, "cpu", torch.float32, recompute=False)
    seen: list[Tensor] = []

    def keep(_module: torch.nn.Module, values: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen.append(named["position_ids"] if "position_ids" in named else values[1])

    # rotary attention sees differences of positions alone, so no logit would tell
    trained.model.model.rotary_emb.register_forward_pre_hook(keep, with_kwargs=True)
    trained.logits(micro)
    assert seen
    expected = torch.cat([torch.arange(span.stop - span.start) for span in spans(micro)])
    assert all(torch.equal(positions_1T[0], expected) for positions_1T in seen)


def test_experts_mix_no_documents(micro: MicroBatch, tmp_path: Path) -> None:
    """Which tokens share an expert's product depends on all of them, so here the last bits may move."""
    trained = Trained(tiny_mixture_dir(tmp_path), "cpu", torch.float32, recompute=False)
    before = trained.logits(micro)
    for span in spans(micro):
        ids_1T = micro.input_ids_1T.clone()
        ids_1T[:, span] = (ids_1T[:, span] + 500) % 1024
        moved = (trained.logits(replace(micro, input_ids_1T=ids_1T)) - before).abs().amax(dim=1)
        outside = torch.cat([moved[: span.start], moved[span.stop :]])
        assert float(outside.max()) < 1e-5 < float(moved[span].min())


def test_the_model_has_grouped_heads(model: Path) -> None:
    config = load_config(str(model))
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
