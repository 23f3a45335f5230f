"""Division of the loss, sums over ranks, clipping, weight decay, the numbers of the optimizer."""

from mutations.mutation import Mutation

GLOBAL = "the loss is normalised by the supervised tokens of the whole step, in every strategy"
ENGINES = "trainer/finetune_trainer/strategies"
PLAIN = ("tests/unit/trainer/test_plain_reference.py::test_the_course_is_that_of_a_plain_loop[LoRA]",)
STEP = "trainer/finetune_trainer/stepping.py"


def _cell(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/multiproc/test_parity_table.py::test_a_step_is_that_of_one_process[{name}]" for name in names)


MUTATIONS = [
    Mutation(
        guards=GLOBAL,
        name="each micro-batch divides by its own tokens",
        file=STEP,
        old="engine.backward(poisoned(summed) / step.global_supervised_tokens)",
        new="engine.backward(poisoned(summed) / max(1, len(micro.targets_S) * len(step.micro_batches)))",
        tests=PLAIN,
        shows="assert",
    ),
    Mutation(
        guards=GLOBAL,
        name="each rank reports the loss of its own part",
        file=STEP,
        old="return summed_on_device(run.world, total) / step.global_supervised_tokens",
        new="return total / step.global_supervised_tokens",
        tests=_cell("DDP-LoRA-2x2-unpacked"),
        shows="assert",
    ),
    Mutation(
        guards=GLOBAL,
        name="the divisor counts this rank's tokens alone",
        file="trainer/finetune_trainer/data/loader.py",
        old="global_supervised_tokens=int(split.supervised_counts[sequences].sum()),",
        new="global_supervised_tokens=int(split.supervised_counts[sequences[rank :: batch.world_size]].sum()),",
        tests=("tests/unit/trainer_data/test_loader.py::test_the_global_counts_are_the_sums_over_all_ranks",),
        shows="assert",
    ),
    Mutation(
        guards=GLOBAL,
        name="DDP's average over the ranks stays",
        file=f"{ENGINES}/ddp.py",
        old="torch.autograd.backward(loss * (self.world.size * self.loss_scale.scale))",
        new="torch.autograd.backward(loss * self.loss_scale.scale)",
        tests=_cell("DDP-LoRA-2x2-unpacked"),
        shows="assert",
    ),
    Mutation(
        guards=GLOBAL,
        name="FSDP's average over the ranks stays",
        file=f"{ENGINES}/fsdp.py",
        old="torch.autograd.backward(loss * (self.world.size * self.loss_scale.scale))",
        new="torch.autograd.backward(loss * self.loss_scale.scale)",
        tests=_cell("FSDP2-LoRA-2x2-unpacked"),
        shows="assert",
    ),
    Mutation(
        guards=GLOBAL,
        name="DeepSpeed divides by the accumulation as well",
        file=f"{ENGINES}/deepspeed.py",
        old="self.module.backward(loss * self.world.size, scale_wrt_gas=False)",
        new="self.module.backward(loss * self.world.size)",
        tests=_cell("ZeRO-2-LoRA-2x2-unpacked"),
        shows="assert",
    ),
    Mutation(
        guards=GLOBAL,
        name="DeepSpeed's average over the ranks stays",
        file=f"{ENGINES}/deepspeed.py",
        old="self.module.backward(loss * self.world.size, scale_wrt_gas=False)",
        new="self.module.backward(loss, scale_wrt_gas=False)",
        tests=_cell("ZeRO-3-LoRA-2x2-unpacked"),
        shows="assert",
    ),
    Mutation(
        guards=GLOBAL,
        name="DDP adds up before the last micro-batch",
        file=f"{ENGINES}/ddp.py",
        old="self.module.require_backward_grad_sync = last",
        new="self.module.require_backward_grad_sync = True",
        tests=_cell("DDP-LoRA-2x2-unpacked"),
        shows="assert",
    ),
    Mutation(
        guards=GLOBAL,
        name="DeepSpeed counts where a step ends by itself",
        file=f"{ENGINES}/deepspeed.py",
        old="            self.module.step()  # advances the engine's count of micro-batches, no more",
        new="            pass",
        tests=_cell("ZeRO-2-LoRA-2x2-unpacked", "ZeRO-2-LoRA-1x4-unpacked", "ZeRO-3-LoRA-1x4-unpacked"),
        shows="",
    ),
    Mutation(
        guards="the gradient norm of all ranks is clipped, in every strategy",
        name="DeepSpeed does not clip",
        file=f"{ENGINES}/deepspeed.py",
        old="zero.clip_grad = max_norm or 0.0",
        new="zero.clip_grad = 0.0",
        tests=_cell("ZeRO-1-Full-2x2-unpacked"),
        shows="assert",
    ),
    Mutation(
        guards="the gradient norm of all ranks is clipped, in every strategy",
        name="nothing is clipped",
        file="trainer/finetune_trainer/optim.py",
        old="    if max_norm is not None:\n        clip_grads_with_norm_(trained, max_norm, norm)",
        new="    if max_norm is None:\n        clip_grads_with_norm_(trained, 1.0, norm)",
        tests=PLAIN,
        shows="assert",
    ),
    Mutation(
        guards="matrices decay, norms do not",
        name="no weight decay",
        file="trainer/finetune_trainer/optim.py",
        old='"weight_decay": config.weight_decay if treatment.decays else 0.0,',
        new='"weight_decay": 0.0,',
        tests=PLAIN,
        shows="assert",
    ),
    Mutation(
        guards="matrices decay, norms do not",
        name="norms decay too",
        file="trainer/finetune_trainer/optim.py",
        old="Treatment(decays=parameter.ndim >= 2,",
        new="Treatment(decays=True,",
        tests=("tests/unit/trainer/test_optim.py::test_norms_and_biases_do_not_decay",),
        shows="assert",
    ),
    Mutation(
        guards="empty micro-batches take part in every collective",
        name="a rank without sequences has no micro-batch",
        file="trainer/finetune_trainer/data/loader.py",
        old="            for turn in range(turns)\n        ),\n        global_supervised_tokens",
        new="            for turn in range(turns)\n"
        "            if _slots(by_size, batch.micro_sequences, turn * batch.world_size + rank)\n"
        "        ),\n        global_supervised_tokens",
        tests=(
            "tests/unit/trainer_data/test_loader.py::test_an_epoch_ends_with_a_smaller_step_and_empty_micro_batches",
        ),
        shows="",
    ),
    Mutation(
        guards="the fused head gives the loss and gradients of the plain one",
        name="the gradient is not scaled by what follows the loss",
        file="trainer/finetune_trainer/kernels/head_loss.py",
        old="        return (d_hidden_SD.float() * d_loss).to(d_hidden_SD.dtype), d_weight, None, None",
        new="        return d_hidden_SD, d_weight, None, None",
        tests=("tests/unit/kernels/test_products.py::test_the_loss_of_blocks_is_the_loss_of_all",),
        shows="assert",
    ),
]
