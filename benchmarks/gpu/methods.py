"""LoRA, QLoRA and full fine-tuning of Qwen3-1.7B's shape on one GPU, through the trainer's own recipe.

usage: python benchmarks/gpu/methods.py [--shape 1.7B] [--steps 6] [--work FOLDER] [--only LoRA QLoRA Full ...]

Beside them, adapters on the experts of a mixture: Qwen3-30B-A3B's widths in two layers, in 16 and in 4 bits.

Weights and documents are random, so nothing is downloaded. Each method runs three times: in bf16 to the end with its
exports; again from the checkpoint in the middle, which must give the same losses to the last bit; and in fp32, the
reference whose losses and gradient norms bf16 must come near. Prints a JSON object a method, once it is known, and
one of them all; the exit status is 1 when a run differs. `--shape tiny` proves the script itself on a CPU in a minute.
"""

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before torch: exact resumption wants exact products
os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29533")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3MoeConfig

from finetune_contract import ActivationCheckpointing, DdpParallelism, ExpertFacts, ModelFacts, RunConfig
from finetune_operator.planning.memory import Sharing, Workload, gpu_memory
from finetune_operator.planning.models import SHAPES
from finetune_trainer import distributed, recipe, reporting, running
from finetune_trainer.data.cache import open_tokens
from finetune_trainer.distributed import World
from finetune_trainer.model import skeleton
from multiproc.cases import checkpoint_of, config, write_tokens

TINY = ModelFacts(
    hidden_size=64, intermediate_size=192, num_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
    vocab_size=1024, tied_embeddings=True,
)  # fmt: skip
ADAPTERS: dict[str, Any] = {"rank": 16, "alpha": 32, "dropout": 0.0, "targets": ["all-linear"]}
EXPERTS = {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {"type": "LoRA", **ADAPTERS},
    "QLoRA": {"type": "QLoRA", **ADAPTERS},
    "Full": {"type": "Full"},
    "LoRA of experts": {"type": "LoRA", **ADAPTERS, **EXPERTS},
    "QLoRA of experts": {"type": "QLoRA", **ADAPTERS, **EXPERTS},
}
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-2, 5e-2
"""Largest relative difference of bf16 to fp32: bf16 keeps 8 bits, about 4e-3 of a number."""
ROUTED = 3
"""How much more a mixture may differ: rounding that tips a router sends a token to another expert."""
BATCH = (2, 2, 1)
"""Sequences of a micro-batch, micro-batches of a step, ranks."""
GRACE_SECONDS = 600
"""For the last checkpoint of a run that stops before its export: 20 GB of a full one take half a minute or more."""
SEQUENCES = 4
"""One step's: every step sees the same, so that the loss of random documents falls."""


class BeforeExport:
    """Stops a run when its last step is saved, since only the first of three is worth exporting."""

    def __init__(self, position: running.Position, steps: int) -> None:
        self._position, self._steps = position, steps

    @property
    def requested(self) -> bool:
        """Once all steps are done."""
        return self._position.step >= self._steps

    seconds = 0.0


class Never:
    """Nobody asks to stop."""

    requested, seconds = False, 0.0


def main() -> None:
    """Run what is asked for and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["1.7B", "0.6B", "tiny"], default="1.7B")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--work", type=Path, help="an empty folder with 60 GB to spare; default: a temporary one")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS))
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True, warn_only=True)
    work = options.work or Path(tempfile.mkdtemp(prefix="methods-"))
    shape = TINY if options.shape == "tiny" else SHAPES[options.shape]
    world = distributed.join()
    reporting.log_to_stderr(0)
    shapes = {"dense": shape, "unrounded": shape, "mixture": mixture(shape)}
    kinds = {name: kind_of(name) for name in options.only}
    models = {
        kind: make_model(work / kind, shapes[kind], world.device, is_rounded=kind != "unrounded")
        for kind in set(kinds.values())
    }
    tokens = write_tokens(
        work / "tokens", vocab_size=shape.vocab_size, training=SEQUENCES, validation=0, most_documents=40
    )
    found = {}
    for name, kind in kinds.items():
        found[name] = measured(name, shapes[kind], world, models[kind], tokens, work / name, options.steps)
        print(json.dumps({name: found[name]}), flush=True)
    passed = all(each["passed"] for each in found.values())
    device = torch.cuda.get_device_name() if world.device.type == "cuda" else "CPU"
    summary = {"shape": options.shape, "device": device, "torch": torch.__version__, "passed": passed, "methods": found}
    print(json.dumps(summary, indent=1))
    if options.work is None:
        shutil.rmtree(work)
    distributed.leave()
    sys.exit(not passed)


def kind_of(method: str) -> str:
    """Which of the models a method trains.

    The full run gets weights that lie anywhere between two numbers of bf16. Of weights that lie on such numbers, an
    update of 1e-5 moves few to the next one, so that the first steps in bf16 train less than those in fp32: that would
    be measured, not the trainer.
    """
    if method.endswith("of experts"):
        return "mixture"
    return "unrounded" if method == "Full" else "dense"


def mixture(shape: ModelFacts) -> ModelFacts:
    """Two layers with experts: those of Qwen3-30B-A3B, or few and narrow ones beside the tiny shape."""
    if shape is TINY:
        experts = ExpertFacts(count=8, per_token=2, intermediate_size=64)
        return shape.model_copy(update={"num_layers": 2, "tied_embeddings": False, "experts": experts})
    return SHAPES["30B-A3B"].model_copy(update={"num_layers": 2})


def make_model(folder: Path, shape: ModelFacts, device: torch.device, *, is_rounded: bool) -> Path:
    """A model folder without a tokenizer: random weights in bf16, or in fp32."""
    folder.mkdir(parents=True)
    dtype = torch.bfloat16 if is_rounded else torch.float32
    values: dict[str, Any] = {
        "vocab_size": shape.vocab_size, "hidden_size": shape.hidden_size, "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers, "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads, "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tied_embeddings, "max_position_embeddings": 40960,
        "dtype": str(dtype).removeprefix("torch."),
    }  # fmt: skip
    if shape.experts is not None:
        values |= {
            "num_experts": shape.experts.count, "num_experts_per_tok": shape.experts.per_token,
            "moe_intermediate_size": shape.experts.intermediate_size, "norm_topk_prob": True,
        }  # fmt: skip
    shape_config = Qwen3Config(**values) if shape.experts is None else Qwen3MoeConfig(**values)
    shape_config.save_pretrained(folder)
    generator = torch.Generator(device).manual_seed(7)
    tensors = {
        name: torch.ones(each.shape, dtype=dtype)
        if each.ndim == 1
        else (torch.randn(each.shape, generator=generator, device=device) * 0.02).to("cpu", dtype)
        for name, each in skeleton(shape_config).named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def measured(
    name: str, shape: ModelFacts, world: World, model: Path, tokens: Path, folder: Path, steps: int
) -> dict[str, Any]:
    """What the three runs of a method came to."""

    def run(precision: str, output: Path, attempt: int = 1) -> RunConfig:
        return config(
            output, model, tokens, method=METHODS[name], precision=precision, max_steps=steps, epochs=100, batch=BATCH,
            attempt=attempt, checkpoint={"every_steps": steps // 2, "keep": 9}, grace_seconds=GRACE_SECONDS,
            optimizer={"peak_learning_rate": 1e-5 if name == "Full" else 1e-3, "weight_decay": 0.1},
        )  # fmt: skip

    main_run, reference = run("Bf16", folder / "bf16"), run("Fp32", folder / "fp32")
    seconds, peak_with_export = train(world, main_run, steps, exports=True)
    shutil.rmtree(checkpoint_of(folder / "bf16", steps))
    _, peak = train(world, run("Bf16", folder / "bf16", attempt=2), steps, exports=False)
    straight, again = (lines(folder / "bf16", attempt) for attempt in (1, 2))
    shutil.rmtree(folder / "bf16")
    train(world, reference, steps, exports=False)
    expected = lines(folder / "fp32", 1)
    shutil.rmtree(folder / "fp32")
    loss, norm = (deviation(straight, expected, key) for key in ("loss", "grad_norm"))
    resumes = again == {step: line for step, line in straight.items() if step > steps // 2}
    slack = 1 if shape.experts is None else ROUTED
    learns = straight[steps]["loss"] < straight[1]["loss"]
    return {
        "passed": loss < LOSS_TOLERANCE * slack and norm < NORM_TOLERANCE * slack and resumes and learns,
        "losses": [line["loss"] for line in straight.values()],
        "losses_fp32": [line["loss"] for line in expected.values()],
        "largest_deviation_of_loss": loss,
        "largest_deviation_of_gradient_norm": norm,
        "resumes_exactly": resumes,
        "learns": learns,
        "seconds_with_export": round(seconds, 1),
        "peak_allocated_bytes": peak,
        "peak_allocated_bytes_with_export": peak_with_export,
        "estimated_bytes": estimate(main_run, shape),
    }


def train(world: World, run: RunConfig, steps: int, *, exports: bool) -> tuple[float, int | None]:
    """The whole recipe; seconds, and the most that torch's allocator held."""
    Path(run.output_dir).mkdir(parents=True, exist_ok=True)
    on_gpu = world.device.type == "cuda"
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    position, began = running.Position(), time.monotonic()
    recipe.run(run, world, Never() if exports else BeforeExport(position, steps), position)
    return time.monotonic() - began, torch.cuda.max_memory_allocated() if on_gpu else None


def lines(output: Path, attempt: int) -> dict[int, dict[str, float]]:
    """Loss and gradient norm of each step that an attempt did."""
    text = (output / "attempts" / str(attempt) / "losses.jsonl").read_text(encoding="utf-8")
    found = map(json.loads, text.splitlines())
    return {line["step"]: {key: line[key] for key in ("loss", "grad_norm")} for line in found}


def deviation(found: dict[int, dict[str, float]], expected: dict[int, dict[str, float]], key: str) -> float:
    """Largest relative difference over the steps."""
    return max(abs(found[step][key] / line[key] - 1) for step, line in expected.items())


def estimate(run: RunConfig, shape: ModelFacts) -> int:
    """What the planner says that torch's allocator will hold: no context, no fragmentation."""
    split = open_tokens(run.tokens_dir).training
    lengths = sorted(split.token_counts(np.arange(split.num_sequences)))
    longest = lengths[-run.batch.micro_sequences :]
    workload = Workload(
        model=shape, method=run.method, precision=run.precision, tokens_per_sequence=int(sum(longest)) // len(longest),
        supervised_share=split.supervised_tokens / int(sum(lengths)),
    )  # fmt: skip
    sharing = Sharing(
        parallelism=DdpParallelism(), world_size=1, checkpointing=ActivationCheckpointing.NONE,
        micro_sequences=run.batch.micro_sequences,
    )  # fmt: skip
    left_out = ("CUDA context", "workspace and fragmentation")
    return sum(line.bytes for line in gpu_memory(workload, sharing) if line.name not in left_out)


if __name__ == "__main__":
    main()
