"""What is promised of pushing."""

from mutations.mutation import Mutation

OPERATOR = "operator/finetune_operator"
UNIT = "tests/unit"
ONCE = "what stands on the hub is never pushed again"
KEPT = "a failed push loses nothing, and is repeated when asked"
TOKEN = "the token that may write is in the pod that pushes alone"
STORIES = f"{UNIT}/lifecycle/test_push.py"

MUTATIONS = [
    Mutation(
        guards=ONCE,
        name="a push that succeeded is forgotten",
        file=f"{OPERATOR}/lifecycle/finals.py",
        old="    is_done = record is not None and record.decision == Verdict.FINISH\n",
        new="    is_done = False\n",
        tests=(f"{STORIES}::test_what_stands_on_the_hub_is_never_pushed_again",),
        shows="",
    ),
    Mutation(
        guards=ONCE,
        name="a change of the spec repeats a push that succeeded",
        file=f"{OPERATOR}/lifecycle/finals.py",
        old="    if push is not None and push.decision == Verdict.GIVE_UP:\n",
        new="    if push is not None:\n",
        tests=(f"{STORIES}::test_what_was_pushed_before_is_remembered_through_a_refusal",),
        shows="assert",
    ),
    Mutation(
        guards=ONCE,
        name="another Secret is another place",
        file=f"{OPERATOR}/planning/push.py",
        old="on {push.hub}, branch {branch}",
        new="on {push.hub}, branch {branch}, {push.token_secret}",
        tests=(f"{STORIES}::test_another_secret_or_visibility_is_no_reason_to_push_again",),
        shows="assert",
    ),
    Mutation(
        guards=ONCE,
        name="a second push starts beside the first",
        file=f"{OPERATOR}/lifecycle/push.py",
        old="    if seen is not None and seen.is_alive:\n        is_current",
        new="    if seen is not None and seen.state is WorkerState.RUNNING:\n        is_current",
        tests=(STORIES, f"{UNIT}/lifecycle/test_properties.py"),
        shows="",
    ),
    Mutation(
        guards=KEPT,
        name="a refusal stands whatever is changed",
        file=f"{OPERATOR}/lifecycle/memory.py",
        old="    status = reopened(previous) if previous.artifacts else previous\n",
        new="    status = previous\n",
        tests=(f"{STORIES}::test_suspending_and_resuming_repeats_a_refused_push",),
        shows="assert",
    ),
    Mutation(
        guards=KEPT,
        name="a refusal of an old request ends the run",
        file=f"{OPERATOR}/lifecycle/push.py",
        old="record.decision == Verdict.GIVE_UP and record.request == _request(view)",
        new="record.decision == Verdict.GIVE_UP",
        tests=(f"{STORIES}::test_a_refusal_of_what_is_no_longer_asked_for_ends_nothing",),
        shows="assert",
    ),
    Mutation(
        guards=KEPT,
        name="a push by the old spec goes on",
        file=f"{OPERATOR}/lifecycle/push.py",
        old="is_wanted and seen.request == _request(view)",
        new="is_wanted",
        tests=(f"{STORIES}::test_a_push_that_was_told_something_else_is_replaced",),
        shows="assert",
    ),
    Mutation(
        guards=KEPT,
        name="a hub that does not answer is asked again at once",
        file=f"{OPERATOR}/lifecycle/push.py",
        old="    if not is_wanted or is_under_way or view.now < next_push_at(status):\n",
        new="    if not is_wanted or is_under_way:\n",
        tests=(f"{STORIES}::test_a_hub_that_does_not_answer_is_tried_again_later_and_later",),
        shows="assert",
    ),
    Mutation(
        guards=KEPT,
        name="a push goes on while the run is suspended",
        file=f"{OPERATOR}/lifecycle/push.py",
        old="    is_wanted = not view.run.spec.suspend and status",
        new="    is_wanted = status",
        tests=(f"{STORIES}::test_suspending_ends_a_push_that_is_under_way_and_costs_nothing",),
        shows="assert",
    ),
    Mutation(
        guards=KEPT,
        name="a hub forbidden under way ends the training",
        file=f"{OPERATOR}/reconcile.py",
        old="        if previous.start_time is None:\n            check_push(run, settings)\n",
        new="        check_push(run, settings)\n",
        tests=(f"{UNIT}/reconcile/test_passes.py::test_a_push_that_is_forbidden_under_way_does_not_end_the_training",),
        shows="assert",
    ),
    Mutation(
        guards="an admin decides where runs may push to",
        name="the hub is not checked before the start",
        file=f"{OPERATOR}/reconcile.py",
        old="        if previous.start_time is None:\n            check_push(run, settings)\n",
        new="",
        tests=(
            f"{UNIT}/reconcile/test_passes.py::"
            "test_a_push_that_the_admin_forbids_is_refused_before_anything_is_started",
        ),
        shows="assert",
    ),
    Mutation(
        guards="an admin decides where runs may push to",
        name="the hub is not checked before the push",
        file=f"{OPERATOR}/lifecycle/push.py",
        old="        check_push(view.run, view.settings)\n",
        new="        pass\n",
        tests=(f"{STORIES}::test_a_hub_that_the_admin_forbids_is_not_pushed_to_and_what_was_made_stays",),
        shows="assert",
    ),
    Mutation(
        guards=TOKEN,
        name="workers on this machine inherit it",
        file=f"{OPERATOR}/backends/local/environment.py",
        old="    return {name: value for name, value in environment.items() if name != PUSH_TOKEN_ENV}\n",
        new="    return dict(environment)\n",
        tests=(f"{UNIT}/local_backend/test_environment.py::test_no_other_process_sees_the_token_that_may_write",),
        shows="assert",
    ),
    Mutation(
        guards=TOKEN,
        name="the preparation is given it",
        file=f"{OPERATOR}/manifests/environment.py",
        old="    fixed += [_secret(secret.variable, secret.key) for secret in input_secrets(run)]\n",
        new="    fixed += [_secret(secret.variable, secret.key) for secret in input_secrets(run)]\n"
        "    fixed += [_secret(PUSH_TOKEN_ENV, run.spec.output.push.token_secret)] if run.spec.output.push else []\n",
        tests=(
            f"{UNIT}/manifests/test_pods.py::test_the_token_that_may_write_is_in_the_pod_that_pushes_and_nowhere_else",
        ),
        shows="assert",
    ),
    Mutation(
        guards="a push can be stopped alone",
        name="its mark is the beginning of another's",
        file=f"{OPERATOR}/backends/local/observe.py",
        old='    return f"{uid}/push/{number}/"\n',
        new='    return f"{uid}/push/{number}"\n',
        tests=(
            f"{UNIT}/local_backend/test_push.py::test_stopping_one_push_leaves_those_alone_whose_number_begins_alike",
        ),
        shows="assert",
    ),
]
