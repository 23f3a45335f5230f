"""What can be done to the pods of a run from outside: signals, hooks in the trainer, cut networks.

Containers share this machine's kernel, so their processes are found in /proc by the host name that their pod gave them.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from finetune_contract.paths import INPUTS_DIR
from support.kit import INPUTS, Kit

NEVER = 1_000_000_000
RANK, LAUNCHER = b"finetune_trainer\0", b"finetune_trainer.launch\0"
HOOKED = {"trainer.environment.PYTHONPATH": str(INPUTS_DIR / "hooks")}
"""Value of the chart: pods look for hooks on the inputs volume."""


@dataclass(frozen=True, kw_only=True)
class Hook:
    """What happens in the ranks of one pod, by steps; by default nothing does."""

    hold_step: int = NEVER
    """Wait there, until `let_go` or SIGTERM."""
    nan_step: int = NEVER
    """From there on the loss is not a number…"""
    last_nan_step: int = NEVER
    """…up to there."""
    gpu_step: int = NEVER
    """From there on the GPU has no room…"""
    gpu_sequences: int = NEVER
    """…for more sequences than these in one pass."""
    host_memory_step: int = NEVER
    """There the rank uses…"""
    host_memory_bytes: int = 0
    """…so much more of the host's memory."""


def put_hooks(kit: Kit) -> None:
    """The hooks' own code, on the inputs volume of a kit that was installed with HOOKED."""
    folder = _hooks(kit)
    folder.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).parent / "hooks" / "sitecustomize.py", folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)


def hook(kit: Kit, host: str, what: Hook) -> None:
    """Ranks that start in the pod with this host name from now on get the faults."""
    file = _hooks(kit) / f"{host}.json"
    file.write_text(json.dumps(asdict(what)))
    file.chmod(0o644)


def let_go(kit: Kit, host: str) -> None:
    """Ranks that are held in that pod go on."""
    (_hooks(kit) / f"{host}.go").touch(mode=0o644)


def ranks(host: str) -> list[int]:
    """Process ids of the ranks in the pod with this host name."""
    return list(_processes(host, RANK))


def send(host: str, number: signal.Signals, command: bytes = RANK) -> None:
    """A signal to the ranks of the pod with this host name, or to its launcher."""
    found = list(_processes(host, command))
    assert found, f"no {command.decode()} runs on {host}"
    for process_id in found:
        os.kill(process_id, number)


def cut_off(host: str, address: str) -> None:
    """Whatever that pod and the one with this address say to one another from now on is lost without a word.

    The rules lie in the pod's own network namespace, and vanish with it.
    """
    process_id = ranks(host)[0]
    for chain, side in (("INPUT", "--source"), ("OUTPUT", "--destination")):
        rule = ["iptables", "--insert", chain, side, address, "--jump", "DROP"]
        subprocess.run(["nsenter", "--target", str(process_id), "--net", *rule], check=True)


def _hooks(kit: Kit) -> Path:
    return kit.volume(INPUTS) / "hooks"


def _processes(host: str, command: bytes) -> Iterator[int]:
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            said, environment = ((process / what).read_bytes() for what in ("cmdline", "environ"))
            if command in said and f"HOSTNAME={host}\0".encode() in environment:
                yield int(process.name)
