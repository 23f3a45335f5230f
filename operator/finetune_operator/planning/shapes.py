"""How many parameters a decoder model has, and where: arithmetic on its shape alone."""

from dataclasses import dataclass

from finetune_contract import LoraMethod, Method, ModelFacts

ATTENTION_INPUTS = ("q_proj", "k_proj", "v_proj")
"""These read the same tensor."""
MLP_INPUTS = ("gate_proj", "up_proj")
"""So do these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A linear module of a decoder layer (or the output head): weight [outputs, inputs]."""

    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Weights, without bias: Qwen3 has none."""
        return self.inputs * self.outputs


def query_width(model: ModelFacts) -> int:
    """Width of all query heads together; not always the model's own width."""
    return model.num_attention_heads * model.head_dim


def key_width(model: ModelFacts) -> int:
    """Width of all key heads together, and of all value heads."""
    return model.num_key_value_heads * model.head_dim


def projections(model: ModelFacts) -> dict[str, Projection]:
    """The linear modules of one decoder layer by name."""
    hidden, inner, query, key = model.hidden_size, model.intermediate_size, query_width(model), key_width(model)
    return {
        "q_proj": Projection(inputs=hidden, outputs=query),
        "k_proj": Projection(inputs=hidden, outputs=key),
        "v_proj": Projection(inputs=hidden, outputs=key),
        "o_proj": Projection(inputs=query, outputs=hidden),
        "gate_proj": Projection(inputs=hidden, outputs=inner),
        "up_proj": Projection(inputs=hidden, outputs=inner),
        "down_proj": Projection(inputs=inner, outputs=hidden),
    }


def layer_parameters(model: ModelFacts) -> int:
    """Parameters of one decoder layer: its projections and its four norms."""
    norms = 2 * model.hidden_size + 2 * model.head_dim
    return sum(each.parameters for each in projections(model).values()) + norms


def root_parameters(model: ModelFacts) -> int:
    """Parameters outside the layers: embedding, last norm, and an output head of its own unless it is tied."""
    matrices = 1 if model.tied_embeddings else 2
    return matrices * model.vocab_size * model.hidden_size + model.hidden_size


def model_parameters(model: ModelFacts) -> int:
    """All parameters of the base model."""
    return model.num_layers * layer_parameters(model) + root_parameters(model)


def adapted_projections(model: ModelFacts, method: LoraMethod) -> dict[str, Projection]:
    """The projections of a layer that get an adapter. A name that matches none is the preparation's to refuse."""
    every = projections(model)
    if method.targets == ("all-linear",):
        return every
    return {name: every[name] for name in method.targets if name in every}


def trained_layer_parameters(model: ModelFacts, method: Method) -> int:
    """Trained parameters of one decoder layer; an adapter has rank x (inputs + outputs): arXiv 2106.09685, 4.1."""
    if not isinstance(method, LoraMethod):
        return layer_parameters(model)
    return sum(method.rank * (each.inputs + each.outputs) for each in adapted_projections(model, method).values())


def trained_root_parameters(model: ModelFacts, method: Method) -> int:
    """Trained parameters outside the layers: all of them, or an adapter on the output head if it is a target."""
    if not isinstance(method, LoraMethod):
        return root_parameters(model)
    return method.rank * (model.hidden_size + model.vocab_size) if "lm_head" in method.targets else 0


def trained_parameters(model: ModelFacts, method: Method) -> int:
    """All trained parameters."""
    return model.num_layers * trained_layer_parameters(model, method) + trained_root_parameters(model, method)
