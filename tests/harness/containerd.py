"""The container runtime of the node. Its images outlive the run: a warm start imports nothing again."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness import cache, requirements
from harness.run import Run
from harness.shell import HarnessError, run

PAUSE_IMAGE = "localhost/qwen3-finetune/pause:1"
_NAMESPACE = "k8s.io"  # where the kubelet's images and containers live
_BY_DIGEST = "sha256:"  # the kubelet's interface adds such a name to every image, and never takes it away
_SOCKET_PATH_LIMIT = 107


class Containerd:
    """containerd and runc for one run, on the image store that all runs of this machine share, one at a time."""

    def __init__(self, of: Run) -> None:
        self.run = of
        self.socket = of.node / "containerd.sock"
        self.cni = of.node / "cni"
        self.store = cache.home() / "containerd"
        self.blobs = self.store / "io.containerd.content.v1.content" / "blobs" / "sha256"

    @property
    def snapshotter(self) -> str:
        """How images are unpacked: as overlays where the kernel can."""
        return "overlayfs" if requirements.overlay_works(cache.home()) else "native"

    def start(self) -> None:
        """Returns when the runtime answers; containers of an earlier run are gone by then, images are not."""
        if len(str(self.socket)) > _SOCKET_PATH_LIMIT:
            raise HarnessError(f"{self.socket} is too long for a socket: set XDG_CACHE_HOME to a shorter path")
        self.run.node.mkdir(parents=True, exist_ok=True)
        if self._left_over():
            self._launch(disabled='["io.containerd.grpc.v1.cri"]')  # else it would revive what shall be removed
            self._remove_containers()
            self.run.processes.stop(["containerd"])
        self._launch(disabled="[]")

    def images(self) -> set[str]:
        """The names of all images that pods can use."""
        return {name for name in self._manifests() if not name.startswith(_BY_DIGEST)}

    def remove_images(self, names: set[str]) -> None:
        """Removes these images; what other images do not share goes with them."""
        manifests = self._manifests()
        kept = {manifests[name] for name in self.images() - names}
        aliases = {name for name, manifest in manifests.items() if name.startswith(_BY_DIGEST) and manifest not in kept}
        gone = (names & manifests.keys()) | aliases
        if gone:
            self.ctr("images", "remove", "--sync", *sorted(gone))

    def ctr(self, *words: str) -> str:
        """What `ctr <words>` says about the node's images and containers."""
        return run(self.command(*words))

    def command(self, *words: str) -> list[str]:
        """The `ctr` command for this runtime."""
        return ["ctr", "--address", str(self.socket), "--namespace", _NAMESPACE, *words]

    def _manifests(self) -> dict[str, str]:
        lines = self.ctr("images", "list").splitlines()[1:]
        return {words[0]: words[2] for line in lines if (words := line.split())}

    def _launch(self, disabled: str) -> None:
        config = self.run.node / "containerd.toml"
        config.write_text(self._config(disabled))
        processes = self.run.processes
        processes.start("containerd", ["containerd", "--config", config])
        processes.wait("containerd answered", self._answers, ["containerd"])

    def _answers(self) -> bool:
        try:
            self.ctr("version")
        except HarnessError:
            return False
        return True

    def _left_over(self) -> bool:
        folders = [self._cri / "containers", self._cri / "sandboxes"]
        return any(any(folder.glob("*")) for folder in folders)

    def _remove_containers(self) -> None:
        names = self.ctr("containers", "list", "-q").split()
        if names:
            self.ctr("containers", "remove", *names)
        shutil.rmtree(self._cri)

    @property
    def _cri(self) -> Path:
        return self.store / "io.containerd.grpc.v1.cri"

    def _config(self, disabled: str) -> str:
        # Without CAP_SYS_RESOURCE, as in many containers, runc cannot lower oom_score_adj and ends; hence `restrict…`.
        # Network namespaces below the state folder are unmounted with it, whatever happened to the run.
        return f"""
version = 2
root = "{self.store}"
state = "{self.run.node}/containerd"
disabled_plugins = {disabled}
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{self.snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.cni}"
"""
