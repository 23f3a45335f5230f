"""What KWOK does with pods: they start at once and end soon after, those of runs with the trainer's last words."""

import json
from typing import Any

from finetune_operator.names import PREPARE_ROLE, ROLE_LABEL, WORKER_ROLE
from support import runs

_CONTAINERS = "{{ range .spec.containers }}\n- {image: {{ .image | Quote }}, name: {{ .name | Quote }}, %s}\n{{ end }}"
_ROLE = f'.metadata.labels["{ROLE_LABEL}"]'


def stages(seconds: float | None) -> list[dict[str, Any]]:
    """Pods that are bound run at once, end after `seconds` (None: never), and are gone when they are deleted.

    A preparation ends as soon as it runs.
    """
    found = [
        _stage("pod-runs", [_lacks(".metadata.deletionTimestamp"), _lacks(".status.podIP")], status=_running()),
        _ending("preparation-ends", _is(_ROLE, PREPARE_ROLE), runs.prepared().to_message(), 0),
        _stage("pod-goes", [{"key": ".metadata.deletionTimestamp", "operator": "Exists"}], delete=True),
    ]
    if seconds is not None:
        done, milliseconds = runs.done_outcome().to_message(), int(1000 * seconds)
        found += [
            _ending("worker-ends", _is(_ROLE, WORKER_ROLE), done, milliseconds),
            _ending("other-ends", _lacks(_ROLE), "", milliseconds),
        ]
    return found


def _ending(name: str, whose: dict[str, Any], message: str, milliseconds: int) -> dict[str, Any]:
    conditions = [_lacks(".metadata.deletionTimestamp"), _is(".status.phase", "Running"), whose]
    return _stage(name, conditions, status=_ended(message), delay=milliseconds)


def _lacks(key: str) -> dict[str, Any]:
    return {"key": key, "operator": "DoesNotExist"}


def _is(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": [value]}


def _running() -> str:
    container = "ready: true, restartCount: 0, started: true, state: {running: {startedAt: {{ $now | Quote }}}}"
    return (
        "{{ $now := Now }}\nphase: Running\nstartTime: {{ $now | Quote }}\n"
        'podIP: {{ PodIPWith .spec.nodeName false (or .metadata.uid "") (or .metadata.name "") '
        '(or .metadata.namespace "") | Quote }}\n'
        f"containerStatuses:\n{_CONTAINERS % container}"
    )


def _ended(message: str) -> str:
    assert "{{" not in message, "else KWOK would take it for a template"
    ended = (
        "ready: false, restartCount: 0, started: false, state: {terminated: {exitCode: 0, reason: Completed, "
        f"startedAt: {{{{ $now | Quote }}}}, finishedAt: {{{{ $now | Quote }}}}, message: {json.dumps(message)}}}}}"
    )
    return f"{{{{ $now := Now }}}}\nphase: Succeeded\ncontainerStatuses:\n{_CONTAINERS % ended}"


def _stage(
    name: str, conditions: list[dict[str, Any]], *, status: str = "", delete: bool = False, delay: int = 0
) -> dict[str, Any]:
    following: dict[str, Any] = (
        {"finalizers": {"empty": True}, "delete": True} if delete else {"statusTemplate": status}
    )
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": conditions},
            "delay": {"durationMilliseconds": delay},
            "next": following,
        },
    }
