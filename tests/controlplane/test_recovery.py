"""What follows an attempt whose memory did not suffice, and one whose node is suspect."""

from finetune_contract import ExitCode, Outcome, RunConfig
from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.kinds import CONFIG_MAPS
from support import runs, stories
from support.control import Control
from support.operator_process import OperatorProcess


def test_the_next_attempt_takes_less_memory_and_the_one_after_keeps_away_from_a_suspect_node(
    control: Control, operator: OperatorProcess, namespace: str
) -> None:
    name = stories.make_run(control, namespace)
    stories.prepare(control, namespace, name)
    starved = runs.failed_outcome(ExitCode.OUT_OF_MEMORY, "OutOfMemory", rank=0, step=2)
    _end(control, namespace, stories.start_workers(control, namespace, name, attempt=1)[0], starved)
    last = stories.start_workers(control, namespace, name, attempt=2)[1]
    status = control.status(namespace, name)
    assert (status["attempts"][0]["decision"], status["attempts"][0]["remedy"]) == ("Remedy", "ActivationCheckpointing")
    assert (
        status["plan"]["activationCheckpointing"] == status["recovery"]["pinned"]["activationCheckpointing"] == "Full"
    )
    first, second = (_told(control, namespace, name, attempt) for attempt in (1, 2))
    assert (first.activation_checkpointing, second.activation_checkpointing) == ("None", "Full")
    assert first.batch == second.batch
    _end(control, namespace, last, runs.failed_outcome(ExitCode.INFRASTRUCTURE, "AcceleratorFailed", rank=1))
    pods = stories.start_workers(control, namespace, name, attempt=3)
    node = control.status(namespace, name)["attempts"][1]["suspectNode"]
    for pod in pods:
        (preferred,) = pod["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        (avoided,) = preferred["preference"]["matchFields"]
        assert (avoided["operator"], avoided["values"]) == ("NotIn", [node])
    stories.end_workers(control, namespace, name, 3, runs.done_outcome())
    status = control.wait_phase(namespace, name, "Succeeded")
    assert (status["restarts"], status["failures"]) == (2, 1)


def _end(control: Control, namespace: str, pod: Object, outcome: Outcome) -> None:
    """This worker fails, and the Job controller takes the other along."""
    control.do(control.kubelet.end(pod, outcome))

    def is_told() -> bool:
        pods = control.do(control.kubelet.pods(namespace))
        return any("deletionTimestamp" in each["metadata"] for each in pods)

    control.wait("the failed gang is told to go", is_told)
    control.do(control.kubelet.reap(namespace))


def _told(control: Control, namespace: str, name: str, attempt: int) -> RunConfig:
    """What the workers of an attempt were told."""
    texts = (text for each in control.children(CONFIG_MAPS, namespace, name) for text in each["data"].values())
    configs = (RunConfig.model_validate_json(text) for text in texts if '"attempt"' in text)
    return next(config for config in configs if config.attempt == attempt)
