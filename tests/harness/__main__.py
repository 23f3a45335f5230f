"""The harness on the command line: `PYTHONPATH=tests python -m harness up|env|image|logs|down|build|missing`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from harness import builds, images, project, requirements
from harness.cluster import Cluster
from harness.controlplane import ControlPlane
from harness.shell import HarnessError


def main() -> int:
    """Runs one command; an error is a sentence on standard error, not a traceback."""
    arguments = _parser().parse_args()
    command: Callable[[argparse.Namespace], None] = arguments.command
    try:
        command(arguments)
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return 1
    return 0


def up(arguments: argparse.Namespace) -> None:
    """Starts the cluster, and says how to use and how to end it."""
    start = time.monotonic()
    cluster = Cluster(arguments.name, gpus=arguments.gpus, throttled=arguments.throttled)
    if arguments.control_plane_only:
        _start(cluster.control_plane)
    else:
        _start(cluster)
    if arguments.with_operator:
        project.install(cluster)
        project.put_examples(cluster)
    print(f"# {arguments.name} is up after {time.monotonic() - start:.0f} s")
    env(arguments)
    if arguments.with_operator:
        print("# kubectl apply -f examples/quickstart.yaml && kubectl get qwen3finetunes -w")
    print(f"# end it with: PYTHONPATH=tests python -m harness down {arguments.name}")


def _start(tier: Cluster | ControlPlane) -> None:
    if tier.running:
        print(f"{tier.name} is up already, and stays as it is", file=sys.stderr)
    else:
        tier.start()


def env(arguments: argparse.Namespace) -> None:
    """Prints the lines that a shell needs to use the cluster."""
    cluster = Cluster(arguments.name)
    if not cluster.control_plane.running:
        raise HarnessError(f"{arguments.name} is not up: PYTHONPATH=tests python -m harness up {arguments.name}")
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    print(f"export PATH={cluster.tools()}:$PATH")


def image(arguments: argparse.Namespace) -> None:
    """Builds a target of the Dockerfile, puts it into the node if there is one, and prints its name."""
    requirements.install(requirements.NODE_PACKAGES)
    node = Cluster(arguments.name).node
    file, context = Path(arguments.file), Path(arguments.context)
    print(images.ensure_image(arguments.target, file, context, node.containerd if node.running else None))


def logs(arguments: argparse.Namespace) -> None:
    """Copies everything that the cluster wrote to a folder."""
    Cluster(arguments.name).collect_logs(Path(arguments.destination))


def down(arguments: argparse.Namespace) -> None:
    """Ends the cluster."""
    Cluster(arguments.name).stop()


def build(arguments: argparse.Namespace) -> None:
    """Builds programs without starting any, and prints their folders; with --images the project's images, too."""
    for component in arguments.components or [name for name in builds.COMPONENTS if name != "kwok"]:
        print(builds.build(component))
    if arguments.images:
        requirements.install(requirements.CONTROL_PLANE_PACKAGES | requirements.NODE_PACKAGES)
        for target in ("operator", "trainer"):
            print(images.ensure_image(target, project.ROOT / "Dockerfile", project.ROOT))


def missing(_: argparse.Namespace) -> None:
    """Prints why a node cannot run on this machine; nothing when it can."""
    for reason in requirements.missing():
        print(reason)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def add(function: Callable[[argparse.Namespace], None], *, named: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(command=function)
        if named:
            command.add_argument("name", nargs="?", default="playground", help="which run (default: %(default)s)")
        return command

    starting = add(up)
    starting.add_argument("--gpus", type=int, default=8, help="how many GPUs the node claims (default: %(default)s)")
    starting.add_argument("--throttled", action="store_true", help="keep Kubernetes' own rate limits")
    starting.add_argument("--control-plane-only", action="store_true", help="no node: nothing runs, all is accepted")
    starting.add_argument("--with-operator", action="store_true", help="build both images and install the chart")
    add(env)
    add(down)
    add(logs).add_argument("--destination", default="cluster-logs", help="a folder (default: %(default)s)")
    add(missing, named=False)
    programs = add(build, named=False)
    programs.add_argument("components", nargs="*", choices=[*builds.COMPONENTS, []])
    programs.add_argument("--images", action="store_true", help="build the targets of the Dockerfile as well")
    building = add(image, named=False)
    building.add_argument("target", help="a target of the Dockerfile: operator or trainer")
    building.add_argument("--file", default="Dockerfile", help="the Dockerfile (default: ./Dockerfile)")
    building.add_argument("--context", default=".", help="the folder it copies from (default: .)")
    building.add_argument("--name", default="playground", help="which run's node gets it (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
