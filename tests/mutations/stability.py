"""Steps that are no numbers."""

from mutations.mutation import Mutation

OPTIM = "trainer/finetune_trainer/optim.py"
HIDDEN = "no step that is not a number changes a weight, and none is hidden"
UNIT = "tests/unit/trainer/test_optim.py"

MUTATIONS = [
    Mutation(
        guards=HIDDEN,
        name="the update is applied whatever the norm is",
        file=OPTIM,
        old="    optimizer.found_inf = (~applied).float()  # type: ignore[attr-defined]\n",
        new="    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]\n",
        tests=(f"{UNIT}::test_an_update_that_is_no_number_changes_no_bit",),
        shows="",
    ),
    Mutation(
        guards=HIDDEN,
        name="an infinite loss with finite gradients passes",
        file="trainer/finetune_trainer/loss.py",
        old="    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)",
        new="    return loss",
        tests=("tests/multiproc/test_stability.py",),
        shows="",
    ),
    Mutation(
        guards=HIDDEN,
        name="a step that was skipped is not told",
        file="trainer/finetune_trainer/stepping.py",
        old="    report(run, flight, result, grad_norm)\n",
        new="    if result.applied:\n        report(run, flight, result, grad_norm)\n",
        tests=("tests/multiproc/test_stability.py::test_nothing_is_hidden_and_no_step_is_told_twice",),
        shows="assert",
    ),
    Mutation(
        guards=HIDDEN,
        name="skipped steps are never too many",
        file="trainer/finetune_trainer/stability.py",
        old="    if state.skips_in_a_row > config.non_finite.skip_steps:\n",
        new="    if False:\n",
        tests=("tests/multiproc/test_stability.py::test_one_skipped_step_too_many_takes_the_weights_back",),
        shows="",
    ),
    Mutation(
        guards=HIDDEN,
        name="fp16's loss scale is not lowered by an overflow",
        file=OPTIM,
        old="self.scale.copy_(torch.where(applied, kept, (self.scale / 2).clamp(min=self.LOWEST)))",
        new="self.scale.copy_(kept)",
        tests=(f"{UNIT}::test_an_fp16_overflow_halves_the_scale_and_the_next_step_is_the_same_update",),
        shows="assert",
    ),
]
