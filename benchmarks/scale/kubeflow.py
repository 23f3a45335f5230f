"""Kubeflow Trainer and JobSet as processes of this machine, on the same API server.

Their webhooks are called by address instead of through a Service, so that no node and no kube-proxy is needed. All else
is theirs: manifests, webhooks, rate limits. Both look for their certificate in one folder that the Trainer has fixed.
"""

import base64
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from harness import ControlPlane, builds
from harness.shell import run

COMPONENT = builds.Component(
    "trainer",
    {
        "trainer-controller-manager": "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager",
        "jobset": "sigs.k8s.io/jobset",
    },
    modules=Path(__file__).parent / "go",
)
_CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")  # noqa: S108 - the Trainer's own choice
_NAMESPACE = "kubeflow-system"
_AUTHORITY, _SERVER = "kubeflow-trainer-ca", f"kubeflow-trainer-controller-manager.{_NAMESPACE}.svc"
"""Names that the Trainer wants to find in the certificates: otherwise it makes others."""
_LEFT_OUT = frozenset({"Deployment", "Service", "Secret"})
_TRAINER_PORT, _TRAINER_HEALTH, _JOBSET_PORT, _JOBSET_HEALTH = 9443, 9446, 9444, 9445


@contextmanager
def running(plane: ControlPlane) -> Iterator[list[int]]:
    """Both managers serve; their process ids. Afterwards neither they nor their webhooks are left."""
    trainer = builds.module_folder(COMPONENT, "github.com/kubeflow/trainer/v2")
    jobset = builds.module_folder(COMPONENT, "sigs.k8s.io/jobset")
    authority = _make_certificates(plane.run.folder / "webhooks")
    try:
        _install_jobset(plane, jobset, authority)
        _install_trainer(plane, trainer, authority)
        runtime = (trainer / "manifests" / "base" / "runtimes" / "torch_distributed.yaml").read_text()
        plane.run.processes.wait("both managers served", _serve, ("jobset", "trainer"), timeout=120)
        plane.kubectl.apply(runtime)
        yield [each.pid for name in ("trainer", "jobset") if (each := plane.run.processes.identity(name))]
    finally:
        plane.run.processes.stop(("trainer", "jobset"))
        plane.kubectl("delete", "validatingwebhookconfigurations,mutatingwebhookconfigurations", "--all")
        shutil.rmtree(_CERTIFICATES.parent, ignore_errors=True)


def _install_jobset(plane: ControlPlane, source: Path, authority: Path) -> None:
    plane.kubectl.apply(
        _adapted(plane.kubectl("kustomize", str(source / "config" / "default")), _JOBSET_PORT, authority)
    )
    settings = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "webhook": {"port": _JOBSET_PORT, "certDir": str(_CERTIFICATES)},
        "health": {"healthProbeBindAddress": f":{_JOBSET_HEALTH}"},
        "metrics": {"bindAddress": "0"},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
    }
    file = plane.run.folder / "jobset.json"
    file.write_text(json.dumps(settings))
    words = ["--kubeconfig", _kubeconfig(plane, "jobset"), "--config", file, "--metrics-bind-address", "0"]
    plane.run.processes.start("jobset", [builds.built(COMPONENT) / "jobset", *words])


def _install_trainer(plane: ControlPlane, source: Path, authority: Path) -> None:
    base = source / "manifests" / "base"
    names = {"ca.crt": authority, "ca.key": authority.with_suffix(".key")}
    names |= {name: _CERTIFICATES / name for name in ("tls.crt", "tls.key")}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "kubeflow-trainer-webhook-cert", "namespace": _NAMESPACE},
        "data": {name: base64.b64encode(file.read_bytes()).decode() for name, file in names.items()},
    }
    plane.kubectl("create", "namespace", _NAMESPACE)
    plane.kubectl.apply([secret])
    plane.kubectl.apply(plane.kubectl("kustomize", str(base / "crds")))
    plane.kubectl.wait("--for=condition=Established", "crd/trainjobs.trainer.kubeflow.org")
    plane.kubectl.apply(_adapted(plane.kubectl("kustomize", str(base / "webhook")), _TRAINER_PORT, authority))
    words = ["--kubeconfig", _kubeconfig(plane, "trainer"), "--health-probe-bind-address", f":{_TRAINER_HEALTH}"]
    plane.run.processes.start("trainer", [builds.built(COMPONENT) / "trainer-controller-manager", *words])


def _kubeconfig(plane: ControlPlane, name: str) -> Path:
    """An administrator of that name, so that the audit log tells whose writes are whose."""
    return plane.write_client(name, f"/O=system:masters/CN={name}")


def _adapted(manifests: str, port: int, authority: Path) -> list[dict[str, Any]]:
    """What of the manifests runs without pods, with webhooks that are called at this machine's address."""
    objects = [each for each in yaml.safe_load_all(manifests) if each and each["kind"] not in _LEFT_OUT]
    bundle = base64.b64encode(authority.read_bytes()).decode()
    for webhook in (hook for each in objects for hook in each.get("webhooks", ())):
        path = webhook["clientConfig"]["service"]["path"]
        webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": bundle}
    return objects


def _serve() -> bool:
    for port in (_TRAINER_HEALTH, _JOBSET_HEALTH):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
    return True


def _make_certificates(folder: Path) -> Path:
    """One certificate for both managers, where they look for it; the authority's certificate, its key beside it."""
    folder.mkdir()
    _CERTIFICATES.mkdir(parents=True, exist_ok=True)
    authority, key, request = folder / "ca.crt", folder / "ca.key", folder / "request"
    days = ("-days", "3650")
    run(["openssl", "genrsa", "-traditional", "-out", key, "2048"])  # the Trainer reads no other form
    new: list[str | Path] = ["openssl", "req", "-x509", "-key", key, "-subj", f"/CN={_AUTHORITY}", *days]
    run([*new, "-addext", f"subjectAltName=DNS:{_AUTHORITY}", "-out", authority])
    fresh: list[str | Path] = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={_SERVER}"]
    run([*fresh, "-keyout", _CERTIFICATES / "tls.key", "-out", request])
    names = folder / "names"
    names.write_text(f"subjectAltName=DNS:{_SERVER},IP:127.0.0.1\n")
    sign: list[str | Path] = ["openssl", "x509", "-req", "-in", request, "-CA", authority, "-CAkey", key, *days]
    run([*sign, "-CAcreateserial", "-extfile", names, "-out", _CERTIFICATES / "tls.crt"])
    return authority
