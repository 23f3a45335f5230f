"""Models that are never whole in memory: their weights are read, in fp32, for as long as a part of them computes.

So a check of a 32B model takes the memory of its largest part, not 128 GB, and is exact: fp32 tells two answers apart
that bf16 would blur.

Shape letters: P tokens of the prompt, D hidden width, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_contract import RunConfig
from finetune_trainer import methods
from finetune_trainer.attention import Documents
from finetune_trainer.checkpoint import Checkpoint
from finetune_trainer.export.weights import ExportMismatchError
from finetune_trainer.model import Source, WeightFiles, load_config, materialise, skeleton

_CPU = torch.device("cpu")


class Opened:
    """One model, part by part."""

    def __init__(self, model: PreTrainedModel, source: Source, base_names: Mapping[int, str]) -> None:
        """`source` knows the parameters by their names in `model`, tied ones by the first of their names; `base_names`
        are those of the base's own parameters before anything was put around them, by the parameters' ids."""
        self.model = model.train(False)
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.float()
        self._name_of = {id(parameter): name for name, parameter in model.named_parameters()}
        self._source = source
        self.base_names = base_names
        self.causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model

    @contextmanager
    def resident(self, module: nn.Module) -> Iterator[None]:
        """The weights below `module` are in memory meanwhile."""
        hollow = list(module.named_parameters(remove_duplicate=False))
        names = {name: self._name_of[id(parameter)] for name, parameter in hollow}
        materialise(module, lambda name, rows: self._source(names[name], rows), _CPU)
        try:
            yield
        finally:
            for name, parameter in hollow:
                owner, _, key = name.rpartition(".")
                module.get_submodule(owner)._parameters[key] = parameter

    def part(self, module: nn.Module, *arguments: Any, **options: Any) -> Tensor:
        """What `module`, a part of the model, answers."""
        with self.resident(module):
            answer: Tensor = module(*arguments, **options)
        return answer


def base_model(config: RunConfig) -> Opened:
    """What training began with, as it saw it."""
    bare = skeleton(load_config(config.model_dir))
    return Opened(bare, _base(config), _names(bare))


def whole_model(folder: Path) -> Opened:
    """A model folder, by its own config.json and weight files."""
    bare = skeleton(load_config(str(folder)))
    return Opened(bare, WeightFiles(folder).read, _names(bare))


def trained_model(config: RunConfig, last: Checkpoint) -> Opened:
    """The model as the run itself builds it, with the weights of its checkpoint: what every artifact has to equal."""
    method, trained = methods.chosen(config.method), frozenset(last.names)
    model = method.apply(skeleton(load_config(config.model_dir)), config.method, base_name=config.model_dir)
    initial = method.initial_values(config.method, WeightFiles(config.model_dir), config.seed)

    def source(name: str, rows: slice) -> Tensor:
        return last.weight(name, rows) if name in trained else initial(name, rows)

    return Opened(model, source, {})


def adapted_model(folder: Path, config: RunConfig) -> Opened:
    """An adapter folder on what training began with, by its own adapter_config.json as PEFT understands it.

    Raises: ExportMismatchError when the folder's file does not hold exactly the tensors, by name and shape, that its
    configuration asks for.
    """
    bare = skeleton(load_config(config.model_dir))
    base_names = _names(bare)  # before PEFT puts its own modules around the base's parameters
    model = get_peft_model(bare, PeftConfig.from_pretrained(str(folder)), low_cpu_mem_usage=True)
    promised = get_peft_model_state_dict(model, state_dict=model.state_dict(keep_vars=True))
    base, saved = _base(config), WeightFiles(folder)
    _check_promise({name: tuple(parameter.shape) for name, parameter in promised.items()}, saved)
    saved_names = {id(parameter): name for name, parameter in promised.items()}
    of_adapter = {name: saved_names[id(each)] for name, each in model.named_parameters() if id(each) in saved_names}
    of_base = {name: base_names[id(each)] for name, each in model.named_parameters() if id(each) in base_names}

    def source(name: str, rows: slice) -> Tensor:
        return saved.read(of_adapter[name], rows) if name in of_adapter else base(of_base[name], rows)

    return Opened(model, source, base_names)


def _base(config: RunConfig) -> Source:
    return methods.chosen(config.method).base(config.method, WeightFiles(config.model_dir))


def _names(bare: PreTrainedModel) -> dict[int, str]:
    return {id(parameter): name for name, parameter in bare.named_parameters()}


def _check_promise(promised: Mapping[str, tuple[int, ...]], saved: WeightFiles) -> None:
    found = {name: saved.shape(name) for name in saved.names}
    wrong = sorted(name for name in promised.keys() | found.keys() if promised.get(name) != found.get(name))
    if wrong:
        first = wrong[0]
        raise ExportMismatchError(
            f"the adapter's file and its adapter_config.json disagree about {len(wrong)} tensors, such as {first}: "
            f"{found.get(first, 'missing')} in the file, {promised.get(first, 'nothing')} by the configuration"
        )


@torch.no_grad()
def layer_by_layer(models: Sequence[Opened], ids: Sequence[int]) -> Iterator[tuple[str, list[Tensor]]]:
    """What each part of the models answers to the same prompt, in fp32: its name, and per model [P, D], at last [P, V].

    All models take one step after the other, so that what they share is read from the disk once. Each goes on from its
    own answers, or from what stands in the list when the next part is asked for.
    """
    ids_1P, positions_1P = torch.tensor([ids]), torch.arange(len(ids))[None]
    documents = Documents((0, len(ids)), torch.tensor([0, len(ids)], dtype=torch.int32), len(ids))
    bodies = [each.causal.model for each in models]
    hidden = [each.part(body.embed_tokens, ids_1P)[0] for each, body in zip(models, bodies, strict=True)]
    yield "embedding", hidden
    rotations = [body.rotary_emb(hidden[0][None], positions_1P) for body in bodies]
    for index in range(len(bodies[0].layers)):
        hidden = [
            each.part(
                body.layers[index], hidden_PD[None], attention_mask=None, position_ids=positions_1P,
                position_embeddings=rotation, documents=documents, use_cache=False,
            )[0]
            for each, body, hidden_PD, rotation in zip(models, bodies, hidden, rotations, strict=True)
        ]  # fmt: skip
        yield f"layer {index}", hidden
    hidden = [
        each.part(body.norm, hidden_PD[None])[0] for each, body, hidden_PD in zip(models, bodies, hidden, strict=True)
    ]
    yield "last norm", hidden
    answers = [
        each.part(each.causal.lm_head, hidden_PD[None])[0] for each, hidden_PD in zip(models, hidden, strict=True)
    ]
    yield "output head", answers


@torch.no_grad()
def merged_by_peft(adapted: Opened) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the base that the adapter changes or replaces, as PEFT itself merges it: its name in the model,
    its value in fp32."""
    done: set[nn.Module] = set()
    for module in adapted.model.modules():
        if module in done:
            continue
        if isinstance(module, BaseTunerLayer):
            done |= set(module.modules())
            yield from _merged(module, adapted)
        elif isinstance(module, ModulesToSaveWrapper):
            done |= set(module.modules())
            yield from _replaced(module, adapted)


def _merged(tuner: BaseTunerLayer, adapted: Opened) -> Iterator[tuple[str, Tensor]]:
    names = {key: adapted.base_names[id(each)] for key, each in tuner.get_base_layer().named_parameters()}
    with adapted.resident(tuner):
        layer: nn.Module = tuner
        while isinstance(layer, BaseTunerLayer):  # parameters that are not modules are wrapped one around the other
            layer.merge(safe_merge=True)
            layer = layer.base_layer
        yield from ((names[key], parameter.data) for key, parameter in layer.named_parameters())


def _replaced(wrapper: ModulesToSaveWrapper, adapted: Opened) -> Iterator[tuple[str, Tensor]]:
    names = {key: adapted.base_names[id(each)] for key, each in wrapper.original_module.named_parameters()}
    module = wrapper.modules_to_save[wrapper.active_adapters[0]]
    with adapted.resident(module):
        yield from ((names[key], parameter.data) for key, parameter in module.named_parameters())
