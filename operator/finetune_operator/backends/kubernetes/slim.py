"""Pure: what of an object is kept in memory.

Thousands of runs are known at the same time, each with Jobs, pods and more, and what nobody reads of them is by far the
largest part: pods' containers and volumes, Jobs' templates, the content of ConfigMaps. It is left out; whoever wants to
read some of it takes it off these lists. Keys and short texts are the same in thousands of objects and are kept once.
"""

import json
from collections.abc import Collection
from sys import intern
from typing import Any

from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.kinds import CONFIG_MAPS, JOBS, PODS, SERVICES, Kind
from finetune_operator.names import MANAGER

_OF_PODS = frozenset(
    {
        *("containers", "initContainers", "volumes", "tolerations", "affinity", "securityContext"),
        *("topologySpreadConstraints", "imagePullSecrets"),
    }
)
_OF_CONTAINER_STATUSES = frozenset({"volumeMounts", "resources", "allocatedResources", "imageID", "containerID"})
_OF_JOBS = frozenset({"template", "selector"})
_LONGEST_SHARED = 64
"""Characters; what is longer is hardly ever said twice."""


def slim(kind: Kind, item: Object) -> Object:
    """A copy of `item` that shares nothing with it and holds what the operator may come to read."""
    if kind in (SERVICES, CONFIG_MAPS):  # `apply.is_applied` reads nothing else
        own = [_own_fields(entry) for entry in item["metadata"].get("managedFields", ()) if is_own(entry)]
        kept = {"metadata": _without(item["metadata"], ("managedFields",)) | {"managedFields": own}}
    else:
        kept = {**item, "metadata": _without(item["metadata"], ("managedFields",))}
    if kind is JOBS:
        kept["spec"] = _without(item["spec"], _OF_JOBS)
    if kind is PODS:
        kept["spec"] = _without(item.get("spec", {}), _OF_PODS)
        kept["status"] = _slim_status(item.get("status", {}))
    copy: Object = _shared(kept)
    return copy


def is_own(entry: Object) -> bool:
    """Whether an entry of managedFields tells of what this operator made or applied."""
    return bool(entry.get("manager") == MANAGER and not entry.get("subresource"))


def _own_fields(entry: Object) -> Object:
    # dozens of small dicts in each of thousands of objects, read once in an object's life: text takes a tenth
    return entry | {"fieldsV1": json.dumps(entry.get("fieldsV1", {}), separators=(",", ":"))}


def _slim_status(status: Object) -> Object:
    slimmed = {}
    for key in ("containerStatuses", "initContainerStatuses"):
        if key in status:
            slimmed[key] = [_without(each, _OF_CONTAINER_STATUSES) for each in status[key]]
    return status | slimmed


def _without(fields: Object, names: Collection[str]) -> Object:
    return {key: value for key, value in fields.items() if key not in names}


def _shared(value: Any) -> Any:
    if isinstance(value, dict):
        return {intern(key): _shared(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_shared(part) for part in value]
    if isinstance(value, str) and len(value) <= _LONGEST_SHARED:
        return intern(value)
    return value
