"""Volumes for the node's pods: local ones, because the kubelet applies a pod's fsGroup to them.

The host-path provisioner's stay root's own, so that a pod without root could not write. Nobody provisions local
volumes, so a stock of them is laid in; a claim of any size up to theirs binds to one, once.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from harness.kubectl import Kubectl

CLASS = "standard"
_SIZE = "100Gi"  # what they promise; all of them share the machine's disk
_DEFAULT = {"storageclass.kubernetes.io/is-default-class": "true"}


def create(kubectl: Kubectl, folder: Path, node: str, count: int) -> None:
    """Makes the default storage class and its stock of empty volumes, each for one claim, by one pod or many."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": _DEFAULT},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    volumes = [_volume(f"volume-{number}", folder, node) for number in range(count)]
    kubectl.apply([storage_class, *volumes])


def recycle(kubectl: Kubectl, folder: Path, node: str) -> int:
    """Empties the volumes whose claims were deleted and offers them anew; how many there were."""
    listed = kubectl.json("get", "persistentvolumes", "-l", f"class={CLASS}")["items"]
    names = [each["metadata"]["name"] for each in listed if each["status"].get("phase") == "Released"]
    if names:
        kubectl("delete", "persistentvolumes", *names)
        for name in names:
            shutil.rmtree(folder / name)
        kubectl.apply([_volume(name, folder, node) for name in names])
    return len(names)


def _volume(name: str, folder: Path, node: str) -> dict[str, Any]:
    path = folder / name
    path.mkdir(parents=True)
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": {"class": CLASS}},
        "spec": {
            "capacity": {"storage": _SIZE},
            "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
            "storageClassName": CLASS,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }
