"""What the operator promises."""

from mutations.mutation import Mutation

OPERATOR = "operator/finetune_operator"
UNIT = "tests/unit"
FENCED = "attempt k+1 starts when no worker of attempt k is left"
CRASH = "an operator killed after any write converges to the same objects"
RESTRICTED = "pods meet Pod Security restricted, and hold no token"
QUEUED = "a run that its queue takes back saves, queues anew and resumes"
BATCH = "the global batch is kept, whatever the number of GPUs"
REMEDY = "a run that ran out of GPU memory goes on with less, and what decides the losses stays"

_RECORDED = """\
    if was_written:
        await backend.publish_status(run, decision.status)
"""
_ACTED = """\
    for action in decision.actions:
        await _act(action, run, decision.status, plan, backend, settings)
"""

MUTATIONS = [
    Mutation(
        guards=FENCED,
        name="the next attempt does not wait",
        file=f"{OPERATOR}/lifecycle/decisions.py",
        old="    if not may_start or not all(is_over(attempt) for attempt in observed):\n",
        new="    if not may_start:\n",
        tests=(
            f"{UNIT}/lifecycle/test_ends.py::test_the_next_attempt_waits_until_no_worker_of_the_last_is_left",
            f"{UNIT}/lifecycle/test_properties.py",
        ),
        shows="",
    ),
    Mutation(
        guards=FENCED,
        name="a worker that waits for its node counts as gone",
        file=f"{OPERATOR}/lifecycle/attempts.py",
        old="_ALIVE = frozenset({WorkerState.WAITING, WorkerState.RUNNING})",
        new="_ALIVE = frozenset({WorkerState.RUNNING})",
        tests=(f"{UNIT}/lifecycle/test_ends.py", f"{UNIT}/lifecycle/test_properties.py"),
        shows="",
    ),
    Mutation(
        guards=CRASH,
        name="acts come before the record of them",
        file=f"{OPERATOR}/reconcile.py",
        old=_RECORDED + _ACTED,
        new=_ACTED + _RECORDED,
        tests=(f"{UNIT}/reconcile/test_passes.py::test_the_status_is_written_before_anything_is_made",),
        shows="assert",
    ),
    Mutation(
        guards="a settled run costs no writes",
        name="every pass writes the status",
        file=f"{OPERATOR}/reconcile.py",
        old="    was_written = decision.status != previous\n",
        new="    was_written = True\n",
        tests=(f"{UNIT}/reconcile/test_passes.py::test_second_pass_writes_nothing",),
        shows="assert",
    ),
    Mutation(
        guards=RESTRICTED,
        name="containers may gain privileges",
        file=f"{OPERATOR}/manifests/pod.py",
        old='"allowPrivilegeEscalation": False,',
        new='"allowPrivilegeEscalation": True,',
        tests=(f"{UNIT}/manifests/test_pods.py::test_pods_meet_pod_security_restricted",),
        shows="assert",
    ),
    Mutation(
        guards=RESTRICTED,
        name="pods hold their service account's token",
        file=f"{OPERATOR}/manifests/pod.py",
        old='"automountServiceAccountToken": False,',
        new='"automountServiceAccountToken": True,',
        tests=(f"{UNIT}/manifests/test_pods.py::test_pods_hold_no_credentials_and_are_never_restarted_in_place",),
        shows="assert",
    ),
    Mutation(
        guards=BATCH,
        name="accumulation does not make up for a smaller micro-batch",
        file=f"{OPERATOR}/planning/batch.py",
        old="accumulation_steps=global_sequences // (micro_sequences * topology.world_size),",
        new="accumulation_steps=max(1, global_sequences // (micro_sequences * topology.world_size) - 1),",
        tests=(f"{UNIT}/planning/test_batch.py", f"{UNIT}/planning/test_properties.py"),
        shows="",
    ),
    Mutation(
        guards=BATCH,
        name="a batch that the ranks cannot share is rounded",
        file=f"{OPERATOR}/planning/batch.py",
        old="    if rest == 0 and share > 0:\n",
        new="    if share > 0:\n",
        tests=(f"{UNIT}/planning/test_batch.py",),
        shows="",
    ),
    Mutation(
        guards="a preemption that everybody agreed on costs no restart",
        name="the echo of a rank that left counts as its cause",
        file=f"{OPERATOR}/failures.py",
        old="        shown = [ending for ending in shown if ending.reason != PEER_LOST]\n",
        new="        pass\n",
        tests=(f"{UNIT}/lifecycle/test_causes.py",),
        shows="Infrastructure",
    ),
    Mutation(
        guards="a connection that breaks again and again uses up the restarts",
        name="ranks that let the grace pass have agreed to stop",
        file=f"{OPERATOR}/failures.py",
        old="outcome.exit_code is ExitCode.PREEMPTED and outcome.step is not None",
        new="outcome.exit_code is ExitCode.PREEMPTED",
        tests=(f"{UNIT}/lifecycle/test_causes.py",),
        shows="Preempted",
    ),
    Mutation(
        guards=REMEDY,
        name="what a remedy has settled is estimated again",
        file=f"{OPERATOR}/planning/plan.py",
        old="    choice = next(choices(demand)) if is_settled else _chosen(run, demand, gpu_bytes)\n",
        new="    choice = _chosen(run, demand, gpu_bytes)\n",
        tests=(f"{UNIT}/planning/test_ladder.py::test_a_settled_plan_is_kept_whatever_the_estimate_says",),
        shows="one GPU needs",
    ),
    Mutation(
        guards=REMEDY,
        name="the next attempt is started by the plan of the last",
        file=f"{OPERATOR}/reconcile.py",
        old="            made = plan(status.recovery)\n",
        new="            made = plan(None)\n",
        tests=(f"{UNIT}/reconcile/test_recovery.py",),
        shows="assert",
    ),
    Mutation(
        guards=QUEUED,
        name="a Job for Kueue is not made suspended",
        file=f"{OPERATOR}/manifests/attempt_job.py",
        old='**({"suspend": True} if queueing.is_queued_by_kueue(run) else {}),',
        new="",
        tests=(f"{UNIT}/manifests/test_queueing.py",),
        shows="suspend",
    ),
    Mutation(
        guards=QUEUED,
        name="a Job that its queue took back is left to the queue",
        file=f"{OPERATOR}/lifecycle/attempts.py",
        old="(record.cause in (Cause.SUSPENDED, Cause.DISRUPTION) or has_something_to_save)",
        new="(record.cause == Cause.SUSPENDED or has_something_to_save)",
        tests=(f"{UNIT}/lifecycle/test_queues.py",),
        shows="StopAttempt",
    ),
    Mutation(
        guards=QUEUED,
        name="old news of a Job is an eviction",
        file=f"{OPERATOR}/lifecycle/attempts.py",
        old=" and not attempt.is_suspended_by_queue:\n",
        new=":\n",
        tests=(f"{UNIT}/lifecycle/test_queues.py",),
        shows="StopAttempt",
    ),
]
