"""The CustomResourceDefinition as a whole: names, columns, subresources and the rules that need the whole object."""

from typing import Any

from finetune_operator.crd.cel import Schema
from finetune_operator.crd.root_rules import root_rules
from finetune_operator.crd.schema import structural_schema
from finetune_operator.resource import GROUP, KIND, PLURAL, VERSION, Spec
from finetune_operator.status import Status

SHORT_NAME = "q3ft"
CATEGORY = "finetune"

_COLUMNS = (
    ("Phase", "string", ".status.phase", "Where the run is."),
    ("Progress", "string", ".status.progress.percent", "Share of the optimizer steps that are done."),
    ("Step", "integer", ".status.progress.step", "Optimizer steps done."),
    ("Loss", "string", ".status.progress.loss", "Of the newest step."),
    ("ETA", "string", ".status.progress.eta", "Until the last step."),
    ("GPUs", "integer", ".status.plan.gpus", "That the run takes while it trains."),
    ("Restarts", "integer", ".status.restarts", "Attempts after the first."),
    ("Age", "date", ".metadata.creationTimestamp", "Since the run was created."),
)
_WIDE_COLUMNS = (
    ("Model", "string", ".status.plan.model", "What the run starts from."),
    ("Method", "string", ".status.plan.method", "What is trained."),
    ("Strategy", "string", ".status.plan.strategy", "How the GPUs share the work."),
    ("Tok/s", "integer", ".status.progress.tokensPerSecond", "Real tokens a second, over all GPUs."),
    ("Peak-Mem", "string", ".status.progress.peakMemory", "Largest over the GPUs."),
    ("MFU", "string", ".status.progress.mfu", "Share of the GPUs' peak that the model needs."),
    ("Queue", "string", ".status.queue", "That the run names, and its place while it waits there."),
    ("GPU-Util", "string", ".status.progress.gpuUtilisation", "Of the least busy GPU."),
)


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition of Qwen3FineTune, as it is applied."""
    names = {
        "kind": KIND,
        "listKind": f"{KIND}List",
        "plural": PLURAL,
        "singular": KIND.lower(),
        "shortNames": [SHORT_NAME],
        "categories": [CATEGORY],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [_version()]},
    }


def _version() -> dict[str, Any]:
    columns = [_column(*column) for column in _COLUMNS[:-1]]
    wide = [{**_column(*column), "priority": 1} for column in _WIDE_COLUMNS]
    age = _column(*_COLUMNS[-1])
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [*columns, *wide, age],
        "selectableFields": [{"jsonPath": ".status.phase"}],
        "schema": {"openAPIV3Schema": _root_schema()},
    }


def _column(name: str, kind: str, path: str, description: str) -> dict[str, Any]:
    return {"name": name, "type": kind, "jsonPath": path, "description": description}


def _root_schema() -> Schema:
    return {
        "type": "object",
        "description": "A fine-tuning run of Qwen3, or of a model like it.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "maxLength": 64, "description": f"{GROUP}/{VERSION}."},
            "kind": {"type": "string", "maxLength": 64, "description": f"{KIND}."},
            "metadata": {"type": "object"},
            "spec": structural_schema(Spec),
            "status": _status_schema(),
        },
        "x-kubernetes-validations": root_rules(),
    }


def _status_schema() -> Schema:
    """The status without defaults: the operator writes it whole, and nobody else has something to say in it."""
    schema = structural_schema(Status, with_defaults=False)
    conditions = schema["properties"]["conditions"]
    conditions |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    return schema
