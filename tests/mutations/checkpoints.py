"""Saving, resuming, stopping."""

from mutations.mutation import Mutation

CHECKPOINT = "trainer/finetune_trainer/checkpoint"
ENGINES = "trainer/finetune_trainer/strategies"
EXACT = "ten steps are five, a stop and five more, bit for bit"
SOUND = "a checkpoint is complete and as it was written, or it is not chosen"
ELSEWHERE = "a run goes on with another number of ranks and another strategy"
TOGETHER = "all ranks stop at the same place, whichever of them is told"
STRAIGHT = "tests/multiproc/test_parity.py::test_five_and_five_steps_are_ten_steps_bit_for_bit"
UNIT = "tests/unit/trainer/test_checkpoint.py"
MOVED = "tests/multiproc/test_resume_elsewhere.py"
STOPPED = "tests/multiproc/test_stopping.py::test_stopped_at_any_boundary_equals_unbroken[DDP]"

MUTATIONS = [
    Mutation(
        guards=EXACT,
        name="the optimizer forgets how often it has moved",
        file=f"{ENGINES}/ddp.py",
        old='"step": torch.tensor(float(saved.updates), device=parameter.device),',
        new='"step": torch.tensor(0.0, device=parameter.device),',
        tests=(f"{STRAIGHT}[DDP-LoRA]",),
        shows="assert",
    ),
    Mutation(
        guards=EXACT,
        name="FSDP resumes without the second moment",
        file=f"{ENGINES}/fsdp.py",
        old='"exp_avg_sq": saved.exp_avg_sq(name, rows)}',
        new='"exp_avg_sq": torch.zeros_like(saved.exp_avg_sq(name, rows))}',
        tests=(f"{STRAIGHT}[FSDP2-LoRA]",),
        shows="assert",
    ),
    Mutation(
        guards=EXACT,
        name="ZeRO resumes without the first moment",
        file=f"{ENGINES}/deepspeed.py",
        old='            self._set_moment(parameter, "exp_avg", saved.exp_avg(name, ALL_ROWS))\n',
        new="",
        tests=(f"{STRAIGHT}[ZeRO-2-LoRA]",),
        shows="assert",
    ),
    Mutation(
        guards=EXACT,
        name="ZeRO-3's last rank takes the first rank's part",
        file=f"{ENGINES}/deepspeed.py",
        old="part = value.flatten()[self.world.rank * size : (self.world.rank + 1) * size]",
        new="part = value.flatten()[:size]",
        tests=(f"{STRAIGHT}[ZeRO-3-LoRA]",),
        shows="",
    ),
    Mutation(
        guards=EXACT,
        name="a resumed run sees the first rows again",
        file="trainer/finetune_trainer/recipe.py",
        old="rank=run.world.rank, first_step=run.position.step + 1,",
        new="rank=run.world.rank, first_step=1,",
        tests=(f"{STRAIGHT}[DDP-LoRA]",),
        shows="assert",
    ),
    Mutation(
        guards=EXACT,
        name="dropout depends on what was drawn before",
        file="trainer/finetune_trainer/stepping.py",
        old="        torch.manual_seed(dropout_seed(run.config.seed, step.number, index, run.world.rank))\n",
        new="",
        tests=(STOPPED,),
        shows="assert",
    ),
    Mutation(
        guards=ELSEWHERE,
        name="the number of ranks is one of the run's settings",
        file=f"{CHECKPOINT}/state.py",
        old='        "global_sequences": config.batch.global_sequences,\n',
        new='        "global_sequences": config.batch.global_sequences,\n        "ranks": config.batch.world_size,\n',
        tests=(MOVED,),
        shows="other settings",
    ),
    Mutation(
        guards=ELSEWHERE,
        name="FSDP corrects its moments as if it had never moved",
        file=f"{ENGINES}/fsdp.py",
        old='"step": torch.tensor(float(saved.updates), device=',
        new='"step": torch.tensor(0.0, device=',
        tests=(MOVED,),
        shows="assert",
    ),
    Mutation(
        guards=ELSEWHERE,
        name="a rank of ZeRO takes part of what the others hold",
        file=f"{ENGINES}/deepspeed.py",
        old="saved.exp_avg_sq(name, ALL_ROWS))",
        new="saved.exp_avg_sq(name, ALL_ROWS) * (self.world.rank == 0))",
        tests=(MOVED,),
        shows="assert",
    ),
    Mutation(
        guards=ELSEWHERE,
        name="the rows of a step depend on the number of ranks",
        file="trainer/finetune_trainer/data/loader.py",
        old="shuffled(cache.training.num_sequences, seed, EPOCH_ORDER, part.epoch)",
        new="shuffled(cache.training.num_sequences, seed, EPOCH_ORDER, part.epoch, batch.world_size)",
        tests=(MOVED,),
        shows="assert",
    ),
    Mutation(
        guards=SOUND,
        name="a checkpoint has its name before its files",
        file=f"{CHECKPOINT}/layout.py",
        old='return target.with_name(f"{_GROWING}{target.name}")',
        new="return target",
        tests=(UNIT,),
        shows="",
    ),
    Mutation(
        guards=SOUND,
        name="checksums are not compared",
        file=f"{CHECKPOINT}/reading.py",
        old="            if found != files[name]:\n",
        new="            if False:\n",
        tests=(f"{UNIT}::test_a_damaged_checkpoint_is_passed_over_and_does_not_count",),
        shows="assert",
    ),
    Mutation(
        guards=SOUND,
        name="a folder without its mark counts as complete",
        file=f"{CHECKPOINT}/layout.py",
        old="sorted((path for path in wanted if (path / COMPLETE_FILE).is_file()), reverse=True)",
        new="sorted(wanted, reverse=True)",
        tests=(UNIT,),
        shows="",
    ),
    Mutation(
        guards=SOUND,
        name="settings are not compared",
        file=f"{CHECKPOINT}/reading.py",
        old="        _refuse_other_settings(path, settings)\n",
        new="",
        tests=(f"{UNIT}::test_other_settings_are_refused_by_name",),
        shows="DID NOT RAISE",
    ),
    Mutation(
        guards="retention removes nothing that is needed",
        name="what a rollback would go back to is removed",
        file=f"{CHECKPOINT}/retention.py",
        old="    if retention.good_step is not None:\n",
        new="    if False:\n",
        tests=("tests/unit/trainer/test_checkpoint_retention.py",),
        shows="assert",
    ),
    Mutation(
        guards="retention removes nothing that is needed",
        name="old ones go before the new one is complete",
        file=f"{CHECKPOINT}/saver.py",
        old="        def completed() -> str:\n",
        new="        on_main(world, lambda: prune(self.folder, retention, self.disk) or '')\n\n"
        "        def completed() -> str:\n",
        tests=(f"{UNIT}::test_nothing_is_removed_before_the_new_one_is_complete",),
        shows="",
    ),
    Mutation(
        guards=TOGETHER,
        name="rank 0 alone is asked",
        file="trainer/finetune_trainer/running.py",
        old="    if run.question.any_rank(run.stop.requested):\n",
        new="    if run.question.any_rank(run.stop.requested and run.world.is_main):\n",
        tests=(STOPPED,),
        shows="assert",
    ),
    Mutation(
        guards=TOGETHER,
        name="a stop saves nothing",
        file="trainer/finetune_trainer/recipe.py",
        old="    save_before_the_grace_is_over(run)\n    position = run.position",
        new="    position = run.position",
        tests=(STOPPED,),
        shows="assert",
    ),
]
