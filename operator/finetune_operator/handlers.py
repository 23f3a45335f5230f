"""kopf at the edge: what its watches bring goes to the controller, and nothing else happens here.

Only raw events are handled. kopf then keeps no record of its own in the resources: no finalizer that a removed operator
would leave behind, no annotation, not one write. Children go by their owner references.
"""

from typing import Any

import kopf

from finetune_operator.backends.kubernetes.kinds import CLAIMS, CONFIG_MAPS, JOBS, PODS, RUNS, SERVICES, Kind
from finetune_operator.controller import Controller


@kopf.on.login()
def log_in(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """By KUBECONFIG where it is set, else as the pod's own ServiceAccount, as the operator's own client does."""
    return kopf.login_with_kubeconfig(**kwargs) or kopf.login_with_service_account(**kwargs)


@kopf.on.startup(backoff=5)
async def start(memo: Any, **_: Any) -> None:
    """Watches begin when the store is full. Tried until it works: the API server or the CRD may still be on its way."""
    await controller(memo).start()


@kopf.on.cleanup()
async def close(memo: Any, **_: Any) -> None:
    """On SIGTERM: passes are cut, which they are made for."""
    await controller(memo).close()


@kopf.on.event(RUNS.group, RUNS.version, RUNS.plural)
async def run_seen(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A run was made, changed, deleted, or is there at start."""
    _saw(RUNS, event, memo)


@kopf.on.event(JOBS.group, JOBS.version, JOBS.plural)
async def job_seen(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A Job of ours."""
    _saw(JOBS, event, memo)


@kopf.on.event(PODS.version, PODS.plural)
async def pod_seen(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A pod of such a Job."""
    _saw(PODS, event, memo)


@kopf.on.event(SERVICES.version, SERVICES.plural)
async def service_seen(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A Service of ours."""
    _saw(SERVICES, event, memo)


@kopf.on.event(CONFIG_MAPS.version, CONFIG_MAPS.plural)
async def config_map_seen(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A ConfigMap of ours."""
    _saw(CONFIG_MAPS, event, memo)


@kopf.on.event(CLAIMS.version, CLAIMS.plural)
async def claim_seen(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """A volume claim of ours."""
    _saw(CLAIMS, event, memo)


def controller(memo: Any) -> Controller:
    """The controller that `__main__` put into kopf's memo."""
    found: Controller = memo.controller
    return found


def _saw(kind: Kind, event: kopf.RawEvent, memo: Any) -> None:
    controller(memo).saw(kind, dict(event["object"]), is_gone=event["type"] == "DELETED")
