"""The floating-point operations that training needs, counted from the model's modules and the real tokens.

Per token, a product with N weights costs 2 N forward, 2 N for the gradient of its input and 2 N for that of its weight
if it is trained (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). So a frozen base of N weights with adapters of N_a
costs 4 N + 6 N_a, and full fine-tuning 6 N. Attention inside a document of n tokens costs 2 n^2 w forward and twice
that backward, where w is the width of all query heads: half of the 12 n^2 w of Chowdhery et al. 2022 (arXiv
2204.02311, appendix B), since it is causal.

Counted is what has to be computed: the output head at supervised positions alone, of a mixture of experts those that a
token is sent to. An embedding is looked up, not multiplied. Left out: norms, activations, softmax, the optimizer.
"""

from dataclasses import dataclass

from torch import nn

from finetune_trainer.model import elements


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What went through the model."""

    tokens: int
    """Real ones: no padding."""
    supervised_tokens: int
    squared_lengths: int
    """Sum of n^2 over the documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Operations by what they grow with."""

    layers_forward: int
    """Per token."""
    layers_backward: int
    head: int
    """Per supervised token, forward and backward."""
    attention_forward: int
    """Per squared length."""
    recomputes: bool
    """Whether the layers' forward pass is done a second time."""

    def of_model(self, work: Work) -> float:
        """What `work` needs, however it is carried out: the numerator of MFU."""
        layers = (self.layers_forward + self.layers_backward) * work.tokens
        return layers + self.head * work.supervised_tokens + 3 * self.attention_forward * work.squared_lengths

    def of_hardware(self, work: Work) -> float:
        """With activation checkpointing's second forward pass: the numerator of HFU (arXiv 2205.05198, section 5.3).

        An upper bound: torch spares itself a layer's last product, which no backward pass needs.
        """
        again = self.layers_forward * work.tokens + self.attention_forward * work.squared_lengths
        return self.of_model(work) + (again if self.recomputes else 0)


def count(model: nn.Module, *, recomputes: bool) -> Flops:
    """The operations of `model`, with what trains of it marked, before a strategy cuts its weights."""
    forward = backward = head = 0
    share = _active_share(model)
    for path, module in model.named_modules():
        for weights, is_trained in _products(module):
            active = round(weights * share) if ".experts" in path else weights
            if "lm_head" in path:
                head += (6 if is_trained else 4) * active
            elif "original_module" not in path:  # what a trained copy replaces
                forward += 2 * active
                backward += (4 if is_trained else 2) * active
    config = _decoder_config(model)
    return Flops(
        layers_forward=forward,
        layers_backward=backward,
        head=head,
        attention_forward=2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim,
        recomputes=recomputes,
    )


def _products(module: nn.Module) -> list[tuple[int, bool]]:
    """Weights of the products that `module` itself does, and whether they are trained."""
    if isinstance(module, nn.Linear):  # also where the weight is packed: its own shape would say less
        return [(module.in_features * module.out_features, module.weight.requires_grad)]
    if isinstance(module, nn.Embedding):
        return []
    # routers hold a matrix of their own, experts one tensor [experts, rows, columns]
    matrices = [(name, each) for name, each in module.named_parameters(recurse=False) if each.ndim in (2, 3)]
    return [(elements(name, each), each.requires_grad) for name, each in matrices]


def _active_share(model: nn.Module) -> float:
    """Share of the experts that a token is sent to; 1 without experts."""
    config = _decoder_config(model)
    experts = getattr(config, "num_experts", None)
    return config.num_experts_per_tok / experts if experts else 1.0


def _decoder_config(model: nn.Module):  # type: ignore[no-untyped-def]
    """The configuration of transformers, which PEFT hands through."""
    return model.config
