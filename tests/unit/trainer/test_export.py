"""What is exported is what was trained: every planted fault is found, in bf16 as in fp32."""

import errno
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune_contract import ArtifactKind, ExitCode, Precision, RunConfig
from finetune_trainer import checkpoint, export
from finetune_trainer.checkpoint import Disk
from finetune_trainer.distributed import World
from finetune_trainer.export import Finished, checks, opened, whole
from finetune_trainer.export.adapter import adapter
from finetune_trainer.export.weights import ExportMismatchError
from finetune_trainer.failures import AgreedError
from finetune_trainer.methods import full, lora
from finetune_trainer.model import WeightFiles
from finetune_trainer.stopping import StopAgreedError
from finetune_trainer.targets import ATTENTION
from multiproc.cases import FULL, NeverStop, checkpoint_of, config
from support.adapted import EXPERTS, in_plain_peft, logits, method_of, plain
from support.exports import (
    ALL_PROJECTIONS,
    SpoilingDisk,
    finished_run,
    into,
    loaded,
    resumed,
    stirred_run,
    untied_model_dir,
)

BASE = "base_model.model."
O_PROJ = "model.layers.3.self_attn.o_proj"


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bf16 model with a head of its own."""
    return untied_model_dir(tmp_path_factory.mktemp("untied"))


@pytest.fixture(scope="module")
def adapted(untied: Path, tokens: Path, alone: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Adapters on all projections of a bf16 model, trained in bf16."""
    return finished_run(_short(tmp_path_factory.mktemp("adapted"), untied, tokens, method=ALL_PROJECTIONS), alone)


@pytest.fixture(scope="module")
def fully_trained(untied: Path, tokens: Path, alone: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """All weights of a bf16 model, trained in bf16."""
    return finished_run(_short(tmp_path_factory.mktemp("full"), untied, tokens, method=FULL), alone)


def _short(output: Path, model: Path, tokens: Path, **changes: Any) -> RunConfig:
    """Four steps in bf16, with a checkpoint after two of them."""
    fixed: dict[str, Any] = {"precision": "Bf16", "max_steps": 4, "checkpoint": {"every_steps": 2, "keep": 2}}
    return config(output, model, tokens, optimizer={"peak_learning_rate": 3e-3}, **fixed | changes)


# the adapter: what stands in its file, and what its file and its configuration together compute

Spoil = Callable[[dict[str, Tensor]], None]


def _drop_module(tensors: dict[str, Tensor]) -> None:
    for half in ("lora_A", "lora_B"):
        del tensors[f"{BASE}{O_PROJ}.{half}.weight"]


def _transpose(tensors: dict[str, Tensor]) -> None:
    name = f"{BASE}{O_PROJ}.lora_B.weight"
    tensors[name] = tensors[name].t()


def _swap_layers(tensors: dict[str, Tensor]) -> None:
    first, second = (f"{BASE}model.layers.{layer}.mlp.up_proj.lora_B.weight" for layer in (1, 2))
    tensors[first], tensors[second] = tensors[second], tensors[first]


def _forget_layer(tensors: dict[str, Tensor]) -> None:
    for name in tensors:
        if ".layers.4." in name and ".lora_B." in name:
            tensors[name] = torch.zeros_like(tensors[name])


def _double(tensors: dict[str, Tensor]) -> None:
    tensors[f"{BASE}{O_PROJ}.lora_B.weight"] *= 2


ADAPTER_FAULTS: dict[str, Spoil] = {
    "a module without its adapter": _drop_module,
    "a transposed half": _transpose,
    "two layers swapped": _swap_layers,
    "a layer forgotten": _forget_layer,
    "one adapter doubled": _double,
}


@pytest.mark.parametrize("fault", ADAPTER_FAULTS)
def test_a_spoilt_adapter_is_found(adapted: Finished, tmp_path: Path, fault: str) -> None:
    spoilt = replace(into(adapted, tmp_path), disk=SpoilingDisk(ADAPTER_FAULTS[fault]))
    with pytest.raises(ExportMismatchError):
        adapter(spoilt)
    assert not (tmp_path / "adapter").exists()


@pytest.fixture(scope="module")
def good_adapter(adapted: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(adapter(into(adapted, tmp_path_factory.mktemp("good"))).path)
    compared(adapted, folder)
    return folder


def with_config(good: Path, target: Path, **changes: Any) -> Path:
    """A copy of an adapter whose adapter_config.json says something else."""
    target.mkdir()
    for file in good.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    description = target / "adapter_config.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | changes))
    return target


def compared(finished: Finished, folder: Path) -> None:
    """The comparison part by part alone, without looking at the tensors."""
    models = checks.Comparison(
        base=opened.base_model(finished.config),
        trained=opened.trained_model(finished.config, finished.last),
        artifact=opened.adapted_model(folder, finished.config),
        is_exact=True,
    )
    checks.check_parts(models, finished.ids)


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_alpha": 16},
        {"lora_alpha": 8.1},
        {"use_rslora": True},
        {"r": 8},
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]},
        {"alpha_pattern": {"layers.3.self_attn.o_proj": 9}},
        {"layers_to_transform": [0, 1, 2, 3]},
        {"fan_in_fan_out": True, "target_modules": ["o_proj"]},
    ],
    ids=str,
)
def test_a_configuration_that_computes_otherwise_is_found(
    adapted: Finished, good_adapter: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(ExportMismatchError):
        compared(adapted, with_config(good_adapter, tmp_path / "other", **changes))


def test_one_module_of_one_layer_shows_in_what_is_computed(adapted: Finished, tmp_path: Path) -> None:
    """Without the comparison of tensors: what the parts answer tells a single module's adapter that was forgotten."""
    trained = opened.trained_model(adapted.config, adapted.last)
    spoilt_name = f"{BASE}{O_PROJ}.lora_B.default.weight"
    spoilt = opened.Opened(
        opened.trained_model(adapted.config, adapted.last).model,
        lambda name, rows: torch.zeros(128, 4)[rows] if name == spoilt_name else trained._source(name, rows),
        {},
    )
    models = checks.Comparison(base=opened.base_model(adapted.config), trained=trained, artifact=spoilt, is_exact=True)
    with pytest.raises(ExportMismatchError, match="layer 3 of the reopened artifact"):
        checks.check_parts(models, adapted.ids)


# the model in training: the only witness of what the training computed


def test_a_scale_that_only_the_training_had_is_found(adapted: Finished, alone: World, tmp_path: Path) -> None:
    doubled = resumed(_with_alpha(adapted, 16), adapted.last, alone)
    with pytest.raises(ExportMismatchError, match=r"the change that training made|answers differently"):
        adapter(replace(into(adapted, tmp_path), logits_PV=doubled.logits_PV))


def test_a_small_difference_of_scale_is_found_where_the_difference_of_logits_is_allowed(
    adapted: Finished, alone: World, tmp_path: Path
) -> None:
    larger = resumed(_with_alpha(adapted, 8 * 1.4), adapted.last, alone)
    base, artifact = _logits(adapted)
    found = checks.likeness(base, artifact, larger.logits_PV)
    checks.check_logits(found, checks.TOLERANCE[Precision.BF16], "adapter")
    with pytest.raises(ExportMismatchError, match=r"holds 1\.[34]"):
        checks.check_share(found, "adapter")
    honest = checks.likeness(base, artifact, adapted.logits_PV)
    checks.check_share(honest, "adapter")
    assert abs(honest.share - 1) < 0.02


def _with_alpha(finished: Finished, alpha: float) -> RunConfig:
    method = finished.config.method.model_copy(update={"alpha": alpha})
    return finished.config.model_copy(update={"method": method})


def _logits(finished: Finished) -> tuple[Tensor, Tensor]:
    models = [opened.base_model(finished.config), opened.trained_model(finished.config, finished.last)]
    *_, (_, answers) = opened.layer_by_layer(models, finished.ids)
    return answers[0], answers[1]


def test_an_older_checkpoint_is_not_taken_for_the_last(adapted: Finished, alone: World) -> None:
    run = loaded(adapted.config, alone)
    run.engine.restore(adapted.last)
    export.check_saved(run.engine, adapted.last, alone)
    older = checkpoint.opened(checkpoint_of(Path(adapted.config.output_dir), 2))
    with pytest.raises(AgreedError, match="is not what was trained"):
        export.check_saved(run.engine, older, alone)


# whole models


def test_merging_is_what_peft_makes_of_it_and_rounds_once(adapted: Finished, tmp_path: Path) -> None:
    adapter(into(adapted, tmp_path))
    merged = WeightFiles(whole.merged_model(into(adapted, tmp_path)).path)
    base = WeightFiles(adapted.config.model_dir)
    assert {name: (merged.shape(name), merged.dtype(name)) for name in merged.names} == {
        name: (base.shape(name), base.dtype(name)) for name in base.names
    }
    seen = dict(opened.merged_by_peft(opened.adapted_model(tmp_path / "adapter", adapted.config)))
    assert len(seen) == 5 * 7
    assert all(torch.equal(merged.read(name), exact.bfloat16()) for name, exact in seen.items())
    assert all(torch.equal(merged.read(name), base.read(name)) for name in base.names if name not in seen)


def _merge_with(adapted: Finished, change: Callable[[str, Tensor, Tensor], Tensor]) -> Callable[[str], Tensor]:
    """What is written for a weight of the base when `change` makes it of the base's weight and the update."""
    base = WeightFiles(adapted.config.model_dir)
    exact = lora.result(adapted.config.method, base, adapted.last.names, adapted.trained)  # type: ignore[arg-type]
    return lambda name: change(name, base.read(name).float(), exact(name) - base.read(name).float())


MERGE_FAULTS: dict[str, Callable[[str, Tensor, Tensor], Tensor]] = {
    "nothing merged": lambda name, weight, update: weight,
    "one module not merged": lambda name, weight, update: weight if O_PROJ in name else weight + update,
    "one update transposed": lambda name, weight, update: weight + (update.t() if O_PROJ in name else update),
    "merged twice": lambda name, weight, update: weight + 2 * update,
    "a wrong scale": lambda name, weight, update: weight + 1.4 * update,
    "a layer not merged": lambda name, weight, update: weight if ".layers.4." in name else weight + update,
    "the update alone": lambda name, weight, update: update if update.any() else weight,
    "rounded twice": lambda name, weight, update: weight + update.to(torch.float8_e4m3fn).float(),
}


@pytest.mark.parametrize("fault", MERGE_FAULTS)
def test_a_wrong_merge_is_found_in_bf16(adapted: Finished, tmp_path: Path, fault: str) -> None:
    base = WeightFiles(adapted.config.model_dir)
    names, exact = base.names, _merge_with(adapted, MERGE_FAULTS[fault])
    adapter(into(adapted, tmp_path))
    tmp_path.joinpath("merged").mkdir()
    export.weights.write_weights(tmp_path / "merged", names, lambda name: exact(name).to(base.dtype(name)), Disk())
    with pytest.raises(ExportMismatchError, match="not those trained"):
        whole.check_weights(WeightFiles(tmp_path / "merged"), base, names, into(adapted, tmp_path))


def _stale(tensors: dict[str, Tensor]) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    if name in tensors:
        tensors[name] = tensors[name] + 0.01


def _one_more(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.bias"] = torch.ones(3)


def _one_less(tensors: dict[str, Tensor]) -> None:
    tensors.pop("model.norm.weight", None)


def _fp32(tensors: dict[str, Tensor]) -> None:
    if "model.norm.weight" in tensors:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].float()


def _broken(tensors: dict[str, Tensor]) -> None:
    if "model.norm.weight" in tensors:
        tensors["model.norm.weight"][0] = torch.inf


FILE_FAULTS: dict[str, Spoil] = {
    "a stale tensor": _stale, "a tensor too many": _one_more, "a tensor missing": _one_less,
    "a tensor in fp32": _fp32, "infinity": _broken,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["MergedModel", "Model"])
@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_a_spoilt_model_file_is_found(
    adapted: Finished, fully_trained: Finished, tmp_path: Path, kind: ArtifactKind, fault: str
) -> None:
    finished, make = (adapted, whole.merged_model) if kind == "MergedModel" else (fully_trained, whole.full_model)
    if kind == "MergedModel":
        adapter(into(finished, tmp_path))
    with pytest.raises(ExportMismatchError):
        make(replace(into(finished, tmp_path), disk=SpoilingDisk(FILE_FAULTS[fault])))
    assert not list(tmp_path.glob("m*")), "it never gets its name"


def test_a_full_model_is_every_trained_weight_rounded_once(fully_trained: Finished, tmp_path: Path) -> None:
    model = WeightFiles(whole.full_model(into(fully_trained, tmp_path)).path)
    last = fully_trained.last
    assert sorted(model.names) == sorted(last.names)
    assert all(torch.equal(model.read(name), fully_trained.trained(name).bfloat16()) for name in last.names)


def test_a_layer_that_was_left_as_it_was_is_found_in_a_full_model(fully_trained: Finished, tmp_path: Path) -> None:
    base = WeightFiles(fully_trained.config.model_dir)
    trained = full.result(fully_trained.config.method, base, fully_trained.last.names, fully_trained.trained)  # type: ignore[arg-type]

    def exact(name: str) -> Tensor:
        return base.read(name).float() if ".layers.4." in name else trained(name)

    export.weights.write_weights(tmp_path, base.names, lambda name: exact(name).to(base.dtype(name)), Disk())
    with pytest.raises(ExportMismatchError, match=r"layers\.4\."):
        whole.check_weights(WeightFiles(tmp_path), base, base.names, fully_trained)


def test_a_run_in_fp32_of_a_bf16_model_is_judged_by_the_format_it_is_saved_in(
    untied: Path, tokens: Path, alone: World, tmp_path: Path
) -> None:
    run = config(tmp_path, untied, tokens, method=FULL, max_steps=2, checkpoint={"every_steps": 2, "keep": 1})
    finished_run(run, alone)
    model = WeightFiles(tmp_path / "model")
    assert {model.dtype(name) for name in model.names} == {torch.bfloat16}


@pytest.mark.parametrize("method", [ALL_PROJECTIONS, FULL], ids=["merged", "full"])
def test_a_tied_head_stays_tied(
    model: Path, tokens: Path, alone: World, tmp_path: Path, method: dict[str, Any]
) -> None:
    """Also where the base's files hold the head a second time, as some published ones do."""
    twice = tmp_path / "twice"
    twice.mkdir()
    for file in model.iterdir():
        (twice / file.name).write_bytes(file.read_bytes())
    tensors = {name: WeightFiles(model).read(name) for name in WeightFiles(model).names}
    head = tensors["model.embed_tokens.weight"].clone()
    export.weights.write_tensors(twice / "model.safetensors", tensors | {"lm_head.weight": head}, Disk())
    run = config(tmp_path / "run", twice, tokens, method=method, merge_adapter=method["type"] == "LoRA", max_steps=2)
    finished_run(run, alone)
    (folder,) = (tmp_path / "run" / name for name in ("merged", "model") if (tmp_path / "run" / name).exists())
    assert sorted(WeightFiles(folder).names) == sorted(tensors)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True


# every kind of adapter, in fp32

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "rsLoRA": ("model", {"use_rslora": True}),
    "DoRA": ("model", {"use_dora": True}),
    "patterns": ("model", {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 3.0}}),
    "saved norms": ("model", {"modules_to_save": ("norm",)}),
    "four bits": ("model", {"type": "QLoRA"}),
    "mixture": ("mixture", {"target_parameters": EXPERTS, "rank_pattern": {"experts.down_proj": 3}}),
    "mixture, saved": ("mixture", {"modules_to_save": ("embed_tokens", "lm_head", "mlp.gate")}),
    "mixture in four bits": ("mixture", {"type": "QLoRA", "targets": ATTENTION, "target_parameters": EXPERTS[1:]}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_adapter_is_exported_and_merged(
    request: pytest.FixtureRequest, adapted: Finished, alone: World, tmp_path: Path, variant: str
) -> None:
    fixture, changes = VARIANTS[variant]
    finished = stirred_run(request.getfixturevalue(fixture), method_of(**changes), tmp_path, adapted)
    artifacts = export.exported(finished, alone, NeverStop())
    assert [each.kind for each in artifacts] == ["Adapter", "MergedModel"]
    assert torch.allclose(logits(plain(Path(artifacts[1].path)))[0], finished.logits_PV, atol=1e-5)
    if "four bits" not in variant:  # else the base that PEFT loads is not the one that was trained on
        reopened = in_plain_peft(Path(finished.config.model_dir), Path(artifacts[0].path))
        assert torch.allclose(logits(reopened)[0], finished.logits_PV, atol=1e-5)


# how artifacts come to stand on the volume


class RefusingDisk(Disk):
    """A volume that takes nothing any more."""

    def __init__(self, code: int) -> None:
        self.code = code

    def write_tensors(self, path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
        """Refuse."""
        raise OSError(self.code, "told to fail", str(path))


@pytest.mark.parametrize(
    ("code", "reason", "remedy"),
    [
        (errno.ENOSPC, "OutputFull", "give it more room"),
        (errno.EDQUOT, "OutputFull", "give it more room"),
        (errno.EROFS, "OutputNotWritable", "make the volume writable"),
        (errno.EACCES, "OutputNotWritable", "make the volume writable"),
    ],
)
def test_a_volume_that_takes_nothing_is_told_of_and_the_training_is_kept(
    adapted: Finished, alone: World, tmp_path: Path, code: int, reason: str, remedy: str
) -> None:
    with pytest.raises(AgreedError) as caught:
        export.exported(replace(into(adapted, tmp_path), disk=RefusingDisk(code)), alone, NeverStop())
    failure = caught.value.failure
    assert (failure.exit_code, failure.reason) == (ExitCode.USER_ERROR, reason)
    assert failure.message.startswith("storage.output: adapter")
    assert remedy in failure.message
    assert f"the training is done and kept in {adapted.last.path}" in failure.message
    assert list(tmp_path.iterdir()) == [], "no half of an artifact is left"
    export.exported(into(adapted, tmp_path), alone, NeverStop())
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_a_model_that_cannot_fit_is_refused_before_it_is_written(adapted: Finished, tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"2000000\.00 GB does not fit .* bytes are needed, [\d,]+ are free"),
        export.folder.appearing(tmp_path / "x", Disk(), needed_bytes=2 * 10**15, checkpoint=adapted.last.path),
    ):
        raise AssertionError("nothing is to be written")


def test_a_repeated_export_writes_the_same_bytes(adapted: Finished, good_adapter: Path, tmp_path: Path) -> None:
    again = Path(adapter(into(adapted, tmp_path)).path)
    differing = [file.name for file in again.iterdir() if file.read_bytes() != (good_adapter / file.name).read_bytes()]
    assert differing == ["README.md"], "which names its place"
    assert (again / "README.md").read_text().replace(str(again), str(good_adapter)) == (
        good_adapter / "README.md"
    ).read_text()


class Told(NeverStop):
    """This process has been told to stop."""

    requested = True


def test_an_export_can_be_told_to_stop_and_done_again(adapted: Finished, alone: World, tmp_path: Path) -> None:
    held = threading.Event()

    class SlowDisk(Disk):
        def write_tensors(self, path: Path, tensors: Mapping[str, Tensor], metadata: Any = None) -> None:
            held.wait()

    with pytest.raises(StopAgreedError):
        export.exported(replace(into(adapted, tmp_path / "stopped"), disk=SlowDisk()), alone, Told())
    assert not (tmp_path / "stopped" / "adapter").exists()
    held.set()  # the thread ends, as it would with its process
    assert [each.kind for each in export.exported(into(adapted, tmp_path / "again"), alone, NeverStop())] == ["Adapter"]


def test_large_weights_go_into_several_files_that_transformers_reads(adapted: Finished, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = WeightFiles(adapted.config.model_dir)
    (tmp_path / "config.json").write_bytes((Path(adapted.config.model_dir) / "config.json").read_bytes())
    export.weights.write_weights(tmp_path, base.names, base.read, Disk(), file_bytes=300_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    assert all(file.stat().st_size < 600_000 for file in files)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == base.bytes_of(base.names)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert all(torch.equal(parameter, base.read(name)) for name, parameter in model.named_parameters())
