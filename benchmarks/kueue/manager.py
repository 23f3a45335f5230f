"""Kueue itself: built from its Go module, its manager a process of this machine, its webhooks and its API served to the
API server through Services whose one endpoint is the node's address."""

import base64
import contextlib
import json
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml

from harness import Cluster, addresses, cache, toolchain
from harness.shell import run

VERSION = "v0.19.2"
MODULE = f"sigs.k8s.io/kueue@{VERSION}"
NAMESPACE = "kueue-system"
WEBHOOK_SERVICE, WEBHOOK_PORT = "kueue-webhook-service", 19443
LINE_SERVICE, LINE_PORT = "kueue-visibility-server", 18082
LINE_CERTIFICATES = Path("/visibility")
"""Kueue writes the certificate of its API for positions there, wherever it runs."""
_NOT_OURS = ("Deployment", "Service")
"""Of Kueue's manifests: the manager does not run in a pod here."""


def source() -> Path:
    """The module's source, downloaded when it is not there."""
    said = json.loads(run([toolchain.go(), "mod", "download", "-json", MODULE], timeout=600))
    return Path(said["Dir"])


def program() -> Path:
    """Kueue's manager, built when it is not there."""
    # Kueue asks its own version which of its APIs to serve: without one, positions are served to nobody.
    link = f"-s -w -X sigs.k8s.io/kueue/pkg/version.GitVersion={VERSION}"
    command: list[str | Path] = [toolchain.go(), "build", "-trimpath", "-buildvcs=false", "-ldflags", link]

    def build(folder: Path) -> None:
        run([*command, "-o", folder / "kueue", "./cmd/kueue"], cwd=source(), timeout=3600)

    return cache.published(cache.home() / "bin" / f"kueue-{VERSION}", build) / "kueue"


@contextmanager
def kueue(cluster: Cluster) -> Iterator[None]:
    """Kueue manages the cluster inside the block."""
    folder = cluster.control_plane.run.folder / "kueue"
    certificates = folder / "certificates"
    certificates.mkdir(parents=True)
    manager = program()
    apis, others = _manifests(cluster)
    cluster.kubectl.apply(others)
    for name, port in ((WEBHOOK_SERVICE, WEBHOOK_PORT), (LINE_SERVICE, LINE_PORT)):
        cluster.kubectl.apply(_service(name, port))
    config = folder / "config.json"
    config.write_text(json.dumps(_configuration(certificates)))
    processes = cluster.control_plane.run.processes
    try:
        processes.start("kueue", [manager, "--config", config, "--kubeconfig", cluster.kubeconfig])
        _write_certificates(cluster, certificates)
        # The API server keeps its first connection to a Service, wherever that led before kube-proxy knew the Service.
        _wait_well(cluster, LINE_SERVICE)
        cluster.kubectl.apply(apis)
        cluster.kubectl.wait("--for=condition=Available", "apiservice/v1beta2.visibility.kueue.x-k8s.io", timeout=60)
        yield
    finally:
        processes.stop(["kueue"])
        shutil.rmtree(LINE_CERTIFICATES, ignore_errors=True)


def make_queues(cluster: Cluster) -> None:
    """The quota and the queue. Tried until Kueue's webhooks answer."""
    text = (Path(__file__).parent / "queues.yaml").read_text()
    deadline = time.monotonic() + 120
    while True:
        try:
            cluster.kubectl.apply(text)
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _manifests(cluster: Cluster) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Kueue's own APIServices, and all else of its manifests but what would run it in a pod."""
    rendered = cluster.kubectl("kustomize", str(source() / "config" / "default"))
    wanted = [each for each in yaml.safe_load_all(rendered) if each and each["kind"] not in _NOT_OURS]
    apis = [each for each in wanted if each["kind"] == "APIService"]
    return apis, [each for each in wanted if each not in apis]


def _configuration(certificates: Path) -> dict[str, Any]:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": "127.0.0.1:18081"},
        "metrics": {"bindAddress": "127.0.0.1:18443"},
        "webhook": {"port": WEBHOOK_PORT, "certDir": str(certificates)},
        "visibilityServer": {"bindPort": LINE_PORT},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {
            "enable": True,
            "webhookServiceName": WEBHOOK_SERVICE,
            "webhookSecretName": "kueue-webhook-server-cert",
        },
        "integrations": {"frameworks": ["batch/job"]},
    }


def _service(name: str, port: int) -> list[dict[str, Any]]:
    """A Service whose one endpoint is a port of this machine."""
    metadata = {"name": name, "namespace": NAMESPACE}
    own = {"name": f"{name}-host", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": name}}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": port}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": own,
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": port}],
            "endpoints": [{"addresses": [addresses.NODE]}],
        },
    ]


def _wait_well(cluster: Cluster, service: str) -> None:
    """Returns when the Service leads to Kueue."""
    address = cluster.kubectl.json("-n", NAMESPACE, "get", "service", service)["spec"]["clusterIP"]
    anybody = ssl._create_unverified_context()  # noqa: S323 - it signs for itself, and this only asks whether it is there
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urlopen(f"https://{address}/healthz", context=anybody, timeout=2) as answer:
            if answer.read() == b"ok":
                return
        time.sleep(0.5)
    raise RuntimeError(cluster.control_plane.run.processes.tail("kueue"))


def _write_certificates(cluster: Cluster, folder: Path) -> None:
    """What Kueue issued to itself, as a mounted Secret would bring it: the keys last, and each file whole."""
    deadline = time.monotonic() + 120
    while True:
        secret = cluster.kubectl.find("secret", "kueue-webhook-server-cert", "-n", NAMESPACE) or {}
        data = secret.get("data") or {}
        if data.get("tls.crt"):
            break
        if time.monotonic() > deadline:
            raise RuntimeError(cluster.control_plane.run.processes.tail("kueue"))
        time.sleep(0.5)
    for name in ("ca.crt", "ca.key", "tls.key", "tls.crt"):
        aside = folder / f".{name}"
        aside.write_bytes(base64.b64decode(data[name]))
        aside.rename(folder / name)


def commit() -> str:
    """Of this checkout."""
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
