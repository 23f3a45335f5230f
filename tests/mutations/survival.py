"""What holds while everything around the operator fails."""

from mutations.mutation import Mutation

OPERATOR = "operator/finetune_operator"
UNIT = "tests/unit"
ONE_ACTS = "of several operators one acts"
CLOCKS = "a clock that is wrong stops no run"
TAMPERED = "a status that somebody has written in stops no run"
COST = "what a run has cost only grows, and every GPU-second is in its place"

MUTATIONS = [
    Mutation(
        guards=ONE_ACTS,
        name="a leader counts from the answer, not from the question",
        file=f"{OPERATOR}/backends/kubernetes/leadership.py",
        old="        self._held_until = asked_at + self._terms.renew_seconds\n",
        new="        self._held_until = _now() + self._terms.renew_seconds\n",
        tests=(f"{UNIT}/kubernetes/test_leadership.py::test_an_answer_that_comes_late_counts_from_the_question",),
        shows="assert",
    ),
    Mutation(
        guards=ONE_ACTS,
        name="a Lease is taken before it has run out",
        file=f"{OPERATOR}/backends/kubernetes/leadership.py",
        old="        return _now() - self._seen_at >= runs_out_after\n",
        new="        return True\n",
        tests=(f"{UNIT}/kubernetes/test_leadership.py",),
        shows="",
    ),
    Mutation(
        guards=ONE_ACTS,
        name="who does not lead still acts",
        file=f"{OPERATOR}/backends/kubernetes/client.py",
        old="        if not self._may_act():\n",
        new="        if False:\n",
        tests=(f"{UNIT}/kubernetes/test_leadership.py::test_a_client_that_may_not_act_sends_nothing",),
        shows="",
    ),
    Mutation(
        guards=CLOCKS,
        name="this machine's clock is believed",
        file=f"{OPERATOR}/backends/kubernetes/clock.py",
        old="        self._ahead = min(max(self._ahead, said - self._ticks()), said + 1 - asked_at)\n",
        new="        del said, asked_at\n",
        tests=(f"{UNIT}/kubernetes/test_clock.py::test_one_answer_sets_a_clock_that_is_wrong",),
        shows="assert",
    ),
    Mutation(
        guards=CLOCKS,
        name="figures are as old as the trainer's clock says",
        file=f"{OPERATOR}/lifecycle/progress.py",
        old="    return text.seconds_of(progress.seen_at or progress.updated_at)\n",
        new="    return text.seconds_of(progress.updated_at)\n",
        tests=(f"{UNIT}/lifecycle/test_clocks.py",),
        shows="",
    ),
    Mutation(
        guards=TAMPERED,
        name="records that cannot be true are believed",
        file=f"{OPERATOR}/lifecycle/memory.py",
        old="    status = mended(status).model_copy(",
        new="    status = status.model_copy(",
        tests=(f"{UNIT}/reconcile/test_tampering.py",),
        shows="",
    ),
    Mutation(
        guards=TAMPERED,
        name="a time of an end that nobody recorded ends a run",
        file=f"{OPERATOR}/lifecycle/finals.py",
        old="    if status.completion_time is None or not _has_an_end(status, run):\n",
        new="    if status.completion_time is None:\n",
        tests=(f"{UNIT}/reconcile/test_tampering.py::test_what_was_edited_under_way_is_as_it_was_after_a_pass",),
        shows="assert",
    ),
    Mutation(
        guards=COST,
        name="attempts that are listed no longer are forgotten",
        file=f"{OPERATOR}/lifecycle/cost.py",
        old="    gpu_seconds += earlier.gpu_seconds\n",
        new="",
        tests=(f"{UNIT}/lifecycle/test_cost.py::test_attempts_that_are_listed_no_longer_still_count",),
        shows="assert",
    ),
    Mutation(
        guards=COST,
        name="cost is written whenever it has grown",
        file=f"{OPERATOR}/lifecycle/cost.py",
        old="    if status == previous or not status.attempts:\n",
        new="    if not status.attempts:\n",
        tests=(f"{UNIT}/lifecycle/test_cost.py::test_a_look_without_news_counts_nothing",),
        shows="assert",
    ),
    Mutation(
        guards="an object that is somebody else's is never touched",
        name="what has the name is taken over",
        file=f"{OPERATOR}/backends/kubernetes/backend.py",
        old="        if (whose := _not_ours(run, manifest, live)) is not None:\n",
        new="        if (whose := None) is not None:\n",
        tests=(f"{UNIT}/kubernetes/test_strangers.py",),
        shows="",
    ),
]
