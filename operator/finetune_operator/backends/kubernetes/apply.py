"""Server-side apply that is not sent when it would change nothing.

Whether it would is read from the live object alone, so a restarted operator knows it too. Two things must hold. The
annotation `applied` carries the digest of the manifest: what this manager applied last is what it would apply now. And
its entry in managedFields still names every field of the manifest: whoever changes the value of a field takes it away
from there, so a field that is still ours has the value that was applied. Comparing values instead would stumble over
defaults and over quantities that the API server writes in another way.
"""

import hashlib
import json
from typing import Any

from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.slim import is_own
from finetune_operator.resource import GROUP

APPLIED = f"{GROUP}/applied"
"""Annotation with the digest of the manifest that was applied last."""

_IDENTITY = ("apiVersion", "kind")
_UNOWNED = ("name", "namespace")


def stamped(manifest: Object) -> Object:
    """The manifest with its own digest as an annotation; the argument stays as it was."""
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def is_applied(live: Object, wanted: Object) -> bool:
    """Whether applying `wanted` (a stamped manifest) would leave `live` as it is."""
    digest = wanted["metadata"]["annotations"][APPLIED]
    if live["metadata"].get("annotations", {}).get(APPLIED) != digest:
        return False
    owned = _owned_fields(live)
    return bool(owned) and _owns(owned, _fields_to_own(wanted))


def _owned_fields(live: Object) -> Object:
    """Those of the last apply; without one, those that it was created with (operation Update)."""
    entries = [entry for entry in live["metadata"].get("managedFields", ()) if is_own(entry)]
    newest = next((entry for entry in entries if entry.get("operation") == "Apply"), entries[0] if entries else {})
    fields = newest.get("fieldsV1", {})
    owned: Object = json.loads(fields) if isinstance(fields, str) else fields  # text: as the store keeps it
    return owned


def _fields_to_own(wanted: Object) -> Object:
    metadata = {key: value for key, value in wanted["metadata"].items() if key not in _UNOWNED}
    return {key: value for key, value in wanted.items() if key not in _IDENTITY} | {"metadata": metadata}


def _owns(fields: Object, value: Any) -> bool:
    """Whether the set `fields`, in the form of fieldsV1, covers every leaf of `value`."""
    if not fields:
        return True  # a leaf, or a list or map that is owned as one
    if isinstance(value, dict):
        return all(f"f:{key}" in fields and _owns(fields[f"f:{key}"], part) for key, part in value.items())
    if isinstance(value, list):
        return all(_owns_item(fields, item) for item in value)
    return True


def _owns_item(fields: Object, item: Any) -> bool:
    for key, part in fields.items():
        kind, _, identity = key.partition(":")
        if kind == "v" and json.loads(identity) == item:
            return True
        if kind == "k" and isinstance(item, dict):
            names: Object = json.loads(identity)
            # a key field that the manifest leaves out has been defaulted, such as a port's protocol
            if all(name not in item or item[name] == seen for name, seen in names.items()):
                return _owns(part, item)
    return False
