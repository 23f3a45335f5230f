"""A control plane of real Kubernetes: etcd, API server, controller manager and scheduler, as processes of this machine.

Any number of them run side by side, each on ports of its own. Ready in about ten seconds once the programs are built.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from harness import addresses, audit, builds, ports, requirements, teardown
from harness.certificates import Authority, write_kubeconfig
from harness.helm import Helm
from harness.kubectl import Kubectl
from harness.run import Run
from harness.shell import HarnessError

_DAEMONS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_TOLERATION_SECONDS = 10
_API_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")


class ControlPlane:
    """The control plane of one run. `start` first removes what an earlier, killed run of that name left behind.

    `throttled` keeps Kubernetes' own rate limits for the controller manager (20 requests/s) and the scheduler (50);
    they are lifted by default, so that tests wait for nothing but the work. `lost_node_seconds` is how long a node may
    be silent until its pods are evicted, of which the last 10 are the pods' toleration; by default Kubernetes' own 350.
    """

    def __init__(
        self, name: str = "playground", *, throttled: bool = False, lost_node_seconds: int | None = None
    ) -> None:
        self.name = name
        self.run = Run(name)
        self.throttled = throttled
        self.lost_node_seconds = lost_node_seconds
        self.kubeconfig = self.run.folder / "admin.kubeconfig"
        self.kubectl = Kubectl(self.kubeconfig)
        self.helm = Helm(self.kubeconfig)
        self.audit = audit.Audit(self.run.logs / "audit.jsonl")
        self.authority = Authority(self.run.pki)
        self._started = self.run.folder / "started"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether this run was started to its end, by whomever, and all four daemons are alive."""
        return self._started.exists() and all(self.run.processes.alive(name) for name in _DAEMONS)

    @property
    def server(self) -> str:
        """The API server's address for clients on this machine."""
        return f"https://127.0.0.1:{self.port('kube-apiserver')}"

    def port(self, name: str) -> int:
        """The port that this run has reserved for a daemon."""
        taken = ports.read(self.run.ports_file)
        if name not in taken:
            raise HarnessError(f"the run {self.run.name!r} is not up: start it first")
        return taken[name]

    def start(self) -> None:
        """Returns when the API server serves and the default service account exists; else nothing is left running."""
        requirements.install(requirements.CONTROL_PLANE_PACKAGES)
        for component in ("kubernetes", "etcd"):
            builds.build(component)
        teardown.remove(self.run)
        try:
            self._start()
        except BaseException as error:
            kept = self.run.keep_logs()
            teardown.remove(self.run)
            if isinstance(error, HarnessError):
                raise HarnessError(f"{error}\nall logs: {kept}") from error
            raise

    def stop(self) -> None:
        """Ends every daemon of this run and removes its state, a node's included."""
        teardown.remove(self.run)

    def service_account_kubeconfig(self, namespace: str, name: str, *, hours: int = 24) -> Path:
        """A kubeconfig that acts as this ServiceAccount, with exactly its permissions."""
        token = self.kubectl("create", "token", name, "-n", namespace, f"--duration={hours}h").strip()
        file = self.run.folder / f"{namespace}.{name}.kubeconfig"
        write_kubeconfig(file, self.server, self.authority.certificate, {"token": token}, namespace)
        return file

    @contextmanager
    def without_api_server(self) -> Iterator[None]:
        """The API server is down inside the block, and serves again after it."""
        self.run.processes.stop(["kube-apiserver"])
        try:
            yield
        finally:
            self._start_api_server()

    @contextmanager
    def crashed(self, daemon: str) -> Iterator[None]:
        """The daemon (`etcd` or `kube-apiserver`) is killed and away inside the block, and serves again after it."""
        self.run.processes.kill(daemon)
        try:
            yield
        finally:
            if daemon == "etcd":
                self.run.processes.start("etcd", self._etcd())
                self._wait_ready()
            else:
                self._start_api_server()

    def collect_logs(self, destination: Path) -> None:
        """Copies every daemon's log, and what kubectl can tell of events and objects, to a folder."""
        shutil.copytree(self.run.logs, destination, dirs_exist_ok=True)
        questions = {
            "events.txt": ("get", "events", "-A", "--sort-by=.lastTimestamp"),
            "objects.txt": ("get", "all,persistentvolumeclaims,configmaps", "-A", "-o", "wide"),
            "pods.txt": ("describe", "pods,nodes", "-A"),
        }
        for name, question in questions.items():
            try:
                answer = self.kubectl(*question)
            except HarnessError as error:
                answer = str(error)
            (destination / name).write_text(answer)

    def _start(self) -> None:
        self.run.folder.mkdir(parents=True)
        ports.reserve(self.run.ports_file)
        self._write_credentials()
        processes = self.run.processes
        processes.start("etcd", self._etcd())
        self._start_api_server()
        processes.start("kube-controller-manager", self._controller_manager())
        processes.start("kube-scheduler", self._scheduler())
        account = ("-n", "default", "get", "serviceaccount", "default")
        processes.wait("the default service account existed", lambda: self.kubectl.works(*account), _DAEMONS[:3])
        for name in _DAEMONS:
            if not processes.alive(name):
                raise HarnessError(f"{name} ended at its start; {processes.tail(name)}")
        self._started.touch()

    def _start_api_server(self) -> None:
        self.run.processes.start("kube-apiserver", self._api_server())
        self._wait_ready()

    def _wait_ready(self) -> None:
        self.run.processes.wait(
            "the API server was ready",
            lambda: self.kubectl.works("get", "--raw", "/readyz"),
            ("etcd", "kube-apiserver"),
        )

    def _write_credentials(self) -> None:
        self.authority.create()
        names = [f"DNS:{name}" for name in (*_API_NAMES, "localhost")]
        numbers = [f"IP:{address}" for address in ("127.0.0.1", addresses.NODE, addresses.API_SERVICE)]
        subjects = {
            "admin": "/O=system:masters/CN=admin",
            "kube-controller-manager": "/CN=system:kube-controller-manager",
            "kube-scheduler": "/CN=system:kube-scheduler",
        }
        self.authority.issue("kube-apiserver", "/CN=kube-apiserver", ",".join(names + numbers))
        self.authority.issue("aggregator", "/CN=aggregator")
        for name, subject in subjects.items():
            self.write_client(name, subject)
        policy = self.run.folder / "audit-policy.json"
        policy.write_text(json.dumps(audit.POLICY))

    def write_client(self, name: str, subject: str) -> Path:
        """A kubeconfig with a client certificate for that subject."""
        file = self.run.folder / f"{name}.kubeconfig"
        self.authority.client_kubeconfig(file, self.server, subject)
        return file

    def _etcd(self) -> list[str | Path]:
        client = f"http://127.0.0.1:{self.port('etcd')}"
        peer = f"http://127.0.0.1:{self.port('etcd-peer')}"
        return [
            *(builds.program("etcd"), "--data-dir", self.run.folder / "etcd", "--unsafe-no-fsync"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}", "--quota-backend-bytes", "8589934592"),
        ]

    def _api_server(self) -> list[str | Path]:
        pki = self.run.pki
        return [
            *(builds.program("kube-apiserver"), "--etcd-servers", f"http://127.0.0.1:{self.port('etcd')}"),
            *("--secure-port", str(self.port("kube-apiserver")), "--advertise-address", addresses.NODE),
            *("--tls-cert-file", pki / "kube-apiserver.crt", "--tls-private-key-file", pki / "kube-apiserver.key"),
            *("--client-ca-file", self.authority.certificate),
            *("--service-account-key-file", self.authority.token_key),
            *("--service-account-signing-key-file", self.authority.token_key),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *("--kubelet-client-certificate", pki / "admin.crt", "--kubelet-client-key", pki / "admin.key"),
            *("--kubelet-certificate-authority", self.authority.certificate),
            *("--kubelet-preferred-address-types", "InternalIP", "--service-cluster-ip-range", addresses.SERVICES),
            *("--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction"),
            # How the API server vouches for users to servers that it passes requests on to (APIServices).
            *("--requestheader-client-ca-file", self.authority.certificate),
            *("--requestheader-allowed-names", "aggregator", "--requestheader-username-headers", "X-Remote-User"),
            *("--requestheader-group-headers", "X-Remote-Group"),
            *("--requestheader-extra-headers-prefix", "X-Remote-Extra-"),
            *("--proxy-client-cert-file", pki / "aggregator.crt", "--proxy-client-key-file", pki / "aggregator.key"),
            *("--allow-privileged", "--audit-policy-file", self.run.folder / "audit-policy.json"),
            # Else the log rotates at 100 MB, and whoever counts writes miscounts.
            *("--audit-log-path", self.audit.file, "--audit-log-maxsize", "4096"),
            *self._tolerations(),
        ]

    def _controller_manager(self) -> list[str | Path]:
        name = "kube-controller-manager"
        return [
            *(builds.program(name), "--kubeconfig", self.run.folder / f"{name}.kubeconfig"),
            *("--secure-port", str(self.port(name)), "--leader-elect=false", "--use-service-account-credentials"),
            *("--service-account-private-key-file", self.authority.token_key),
            *("--root-ca-file", self.authority.certificate),
            *("--cluster-signing-cert-file", self.authority.certificate),
            *("--cluster-signing-key-file", self.authority.key),
            *("--allocate-node-cidrs", "--cluster-cidr", addresses.PODS),
            *("--service-cluster-ip-range", addresses.SERVICES),
            *self._limits("--concurrent-job-syncs", "20"),
            *self._node_patience(),
        ]

    def _scheduler(self) -> list[str | Path]:
        name = "kube-scheduler"
        return [
            *(builds.program(name), "--kubeconfig", self.run.folder / f"{name}.kubeconfig"),
            *("--secure-port", str(self.port(name)), "--leader-elect=false", *self._limits()),
        ]

    def _tolerations(self) -> tuple[str, ...]:
        if self.lost_node_seconds is None:
            return ()
        reasons = ("not-ready", "unreachable")
        return tuple(f"--default-{reason}-toleration-seconds={_TOLERATION_SECONDS}" for reason in reasons)

    def _node_patience(self) -> tuple[str, ...]:
        if self.lost_node_seconds is None:
            return ()
        return (f"--node-monitor-grace-period={self.lost_node_seconds - _TOLERATION_SECONDS}s",)

    def _limits(self, *others: str) -> tuple[str, ...]:
        return () if self.throttled else ("--kube-api-qps", "500", "--kube-api-burst", "500", *others)
