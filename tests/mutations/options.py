"""What a user may ask for beyond the usual course: looks at held-out rows, care for stability, a growing batch."""

from mutations.mutation import Mutation

TRAINER, OPERATOR = "trainer/finetune_trainer", "operator/finetune_operator"
HELD_OUT = "held-out rows decide when a run ends, which checkpoint stays and what is exported"
EVALUATION = "tests/multiproc/test_evaluation.py"
BEST_STAYS = f"{EVALUATION}::test_the_best_checkpoint_stays_besides_the_newest"
BEST_IS_EXPORTED = f"{EVALUATION}::test_what_is_exported_is_the_best_and_not_the_last"
STOPPED = f"{EVALUATION}::test_stopped_in_a_look_ends_as_unbroken"
DIVERGED = "a loss that diverges is treated in the promised order, from weights of before"
DIVERGENCE = "tests/multiproc/test_divergence.py"
GROWING = "a growing batch is planned as it is trained"
PLANNED = "tests/unit/planning/test_batch.py"
REFUSED = "what cannot work is refused before a GPU is asked for"
TOLD = "every intervention is told, once"
INTERVENTIONS = "tests/unit/lifecycle/test_interventions.py"

NOISE = "the gradient's noise is the run's, not a rank's"

MUTATIONS = [
    Mutation(
        guards=NOISE,
        name="a rank tells the moment of its own part",
        file=f"{TRAINER}/strategies/deepspeed.py",
        old="        return summed_on_device(self.world, own.square()).sqrt()",
        new="        return own",
        tests=("tests/multiproc/test_resume_elsewhere.py", "tests/multiproc/test_noise_scale.py"),
        shows="assert",
    ),
    Mutation(
        guards=NOISE,
        name="a clipped gradient counts as if it were whole",
        file=f"{TRAINER}/measuring/noise_scale.py",
        old="        clipped = norm if max_norm is None else min(norm, max_norm)",
        new="        clipped = norm",
        tests=("tests/unit/measuring/test_noise_scale.py",),
        shows="assert",
    ),
    Mutation(
        guards=HELD_OUT,
        name="the best is saved only where a checkpoint is due",
        file=f"{TRAINER}/recipe.py",
        old="saves or ends or (evaluation.keep_best and is_best(run.position.evaluation))",
        new="saves or ends",
        tests=(BEST_STAYS,),
        shows="assert",
    ),
    Mutation(
        guards=HELD_OUT,
        name="the best goes like the others",
        file=f"{TRAINER}/saving.py",
        old="best_step=position.evaluation.best_step if run.config.evaluation.keep_best else None,",
        new="best_step=None,",
        tests=(BEST_STAYS,),
        shows="assert",
    ),
    Mutation(
        guards=HELD_OUT,
        name="the last one is exported",
        file=f"{TRAINER}/recipe.py",
        old="    if not run.config.evaluation.load_best or best_step in (None, last.state.step):\n",
        new="    if True:\n",
        tests=(BEST_IS_EXPORTED,),
        shows="assert",
    ),
    Mutation(
        guards=HELD_OUT,
        name="patience has no end",
        file=f"{TRAINER}/evaluation.py",
        old="    return config.patience is not None and state.looks_without_gain >= config.patience",
        new="    return False",
        tests=(f"{EVALUATION}::test_a_run_ends_when_so_many_looks_brought_no_gain",),
        shows="assert",
    ),
    Mutation(
        guards=HELD_OUT,
        name="a look that was broken off is not made up for",
        file=f"{TRAINER}/recipe.py",
        old="    if run.position.evaluation.step < step and looks_after(run, step):\n",
        new="    if False:\n",
        tests=(STOPPED,),
        shows="assert",
    ),
    Mutation(
        guards=HELD_OUT,
        name="the best loss is what its checkpoint knew of it",
        file=f"{TRAINER}/recipe.py",
        old="validation_loss=evaluation.best_loss if exports_best else evaluation.loss,",
        new="validation_loss=exported.state.evaluation.loss,",
        tests=(STOPPED,),
        shows="assert",
    ),
    Mutation(
        guards=DIVERGED,
        name="training writes into what it began with",
        file=f"{TRAINER}/model.py",
        old="dtype=parameter.dtype, copy=parameter.requires_grad)",
        new="dtype=parameter.dtype)",
        tests=(f"{DIVERGENCE}::test_with_a_rate_that_is_low_enough_the_run_recovers",),
        shows="",
    ),
    Mutation(
        guards=DIVERGED,
        name="a checkpoint goes before it is old enough to go back to",
        file=f"{TRAINER}/checkpoint/retention.py",
        old="        kept.update([step for step in newest_first if step > retention.good_step][-1:])\n",
        new="",
        tests=(f"{DIVERGENCE}::test_the_rate_is_lowered_first_then_the_threshold_then_the_run_ends",),
        shows="assert",
    ),
    Mutation(
        guards=DIVERGED,
        name="the first remedy is taken every time",
        file=f"{TRAINER}/stability.py",
        old="    remedy = policy.remedies[state.remedies]\n",
        new="    remedy = policy.remedies[0]\n",
        tests=(f"{DIVERGENCE}::test_the_rate_is_lowered_first_then_the_threshold_then_the_run_ends",),
        shows="",
    ),
    Mutation(
        guards=GROWING,
        name="a smaller batch has the whole one's rate",
        file=f"{TRAINER}/stepping.py",
        old="    if batch.ramp is not None and batch.ramp.scale_rate:\n",
        new="    if False:\n",
        tests=("tests/multiproc/test_ramp.py::test_a_smaller_batch_has_a_lower_rate",),
        shows="assert",
    ),
    Mutation(
        guards=GROWING,
        name="steps are planned without the ramp",
        file=f"{OPERATOR}/planning/batch.py",
        old="        ramp=ramp and BatchRamp(",
        new="        ramp=None and BatchRamp(",
        tests=(PLANNED,),
        shows="",
    ),
    Mutation(
        guards=GROWING,
        name="a pass need not fit into the first batch",
        file=f"{OPERATOR}/planning/batch.py",
        old="    fitting = tuple(size for size in legal if batch.first_samples % (size * topology.world_size) == 0)\n",
        new="    fitting = legal\n",
        tests=(PLANNED,),
        shows="",
    ),
    Mutation(
        guards=REFUSED,
        name="evaluation of no rows is planned",
        file=f"{OPERATOR}/planning/plan.py",
        old="    check_evaluation(run, dataset)\n",
        new="",
        tests=("tests/unit/planning/test_plan.py",),
        shows="DID NOT RAISE",
    ),
    Mutation(
        guards=REFUSED,
        name="a warm-up may be longer than the run",
        file=f"{OPERATOR}/planning/plan.py",
        old="    check_schedule(run, steps)\n",
        new="",
        tests=("tests/unit/planning/test_plan.py",),
        shows="DID NOT RAISE",
    ),
    Mutation(
        guards=REFUSED,
        name="loadBest does not keep the best",
        file=f"{OPERATOR}/planning/run_config.py",
        old="keep_best=wanted.keep_best or wanted.load_best,",
        new="keep_best=wanted.keep_best,",
        tests=("tests/unit/planning/test_run_config.py",),
        shows="load_best: true needs keep_best",
    ),
    Mutation(
        guards=TOLD,
        name="what an attempt ends with is lost",
        file=f"{OPERATOR}/lifecycle/progress.py",
        old="    if status.progress is None or not outcome.interventions:\n",
        new="    if True:\n",
        tests=(INTERVENTIONS,),
        shows="assert",
    ),
    Mutation(
        guards=TOLD,
        name="it is told at every look",
        file=f"{OPERATOR}/lifecycle/events.py",
        old="        if note not in known:\n",
        new="        if True:\n",
        tests=(INTERVENTIONS,),
        shows="assert",
    ),
]
