"""The programs of a cluster, compiled from the Go modules in `go/` and cached by what goes into them."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from harness import cache, toolchain
from harness.shell import HarnessError, run


@dataclass(frozen=True)
class Component:
    """One Go module of `modules`, and the programs that come of it; a package path of "." is the module's own main."""

    name: str
    programs: dict[str, str]
    modules: Path = toolchain.MODULES

    @property
    def source(self) -> Path:
        """The folder of the module."""
        return self.modules / self.name


_KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
COMPONENTS = {
    component.name: component
    for component in (
        Component("kubernetes", {name: f"k8s.io/kubernetes/cmd/{name}" for name in _KUBERNETES}),
        Component("etcd", {"etcd": "."}),
        Component("coredns", {"coredns": "."}),
        Component("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}),
        Component("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}),
    )
}


def program(name: str) -> Path:
    """The program of that name, built when it is not there yet: seconds with a warm Go cache, minutes without."""
    for component in COMPONENTS.values():
        if name in component.programs:
            return build(component.name) / name
    known = sorted(program for component in COMPONENTS.values() for program in component.programs)
    raise HarnessError(f"the harness builds no {name}, only {', '.join(known)}")


def build(name: str) -> Path:
    """The folder with the component's programs, built when its modules or flags have changed."""
    return built(COMPONENTS[name])


def built(component: Component) -> Path:
    """The same of a component that the harness itself does not know."""
    folder = cache.home() / "bin" / f"{component.name}-{_key(component)}"
    return cache.published(folder, lambda aside: _compile(component, aside))


def module_folder(component: str | Component, module: str) -> Path:
    """Where the source of a module lies that a component is built from (its manifests, for example)."""
    source = (COMPONENTS[component] if isinstance(component, str) else component).source
    lookup: list[str | Path] = [toolchain.go(), "list", "-m", "-f", "{{.Dir}}", module]
    run([toolchain.go(), "mod", "download", module], cwd=source)
    return Path(run(lookup, cwd=source).strip())


def _compile(component: Component, folder: Path) -> None:
    print(f"building {', '.join(component.programs)}", file=sys.stderr, flush=True)
    start = time.monotonic()
    for_packages = list(component.programs.values())
    output = f"{folder}/" if "." not in for_packages else str(folder / component.name)
    run([toolchain.go(), "build", *_flags(component), "-o", output, *for_packages], cwd=component.source)
    print(f"built {component.name} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def _flags(component: Component) -> list[str]:
    link = "-s -w"
    if component.name == "kubernetes":
        link += "".join(f" -X k8s.io/component-base/version.{name}={value}" for name, value in _kubernetes_version())
    return ["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", link]


def _kubernetes_version() -> list[tuple[str, str]]:
    found = re.search(r"k8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)", (toolchain.MODULES / "kubernetes/go.mod").read_text())
    if not found:
        raise HarnessError("go/kubernetes/go.mod requires no k8s.io/kubernetes")
    return [("gitVersion", found[1]), ("gitMajor", found[2]), ("gitMinor", found[3])]


def _key(component: Component) -> str:
    files = sorted(component.source.glob("*"))
    content = [part for file in files for part in (file.name, file.read_bytes())]
    return cache.digest([*content, *_flags(component), *component.programs.values()])
