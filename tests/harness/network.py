"""The node's network: an address that pods and host agree on, a bridge for the pods, and the end of both."""

from __future__ import annotations

import json
import re
from pathlib import Path

from harness import addresses
from harness.shell import HarnessError, run, succeeds

BRIDGE = "qft0"
_NETWORK = "qft-pods"


def refuse_strangers() -> None:
    """HarnessError when the machine has chains of a Kubernetes node that is not ours: `down` would remove them."""
    chains = [chain for tool in _tools() for chain in _chains(_saved(tool))]
    if chains:
        raise HarnessError(
            f"this machine has iptables chains of another Kubernetes node ({chains[0]}, …), and the harness would take "
            "them away at its end: stop that node and remove them, or use another machine"
        )


def up(cni: Path, state: Path) -> None:
    """Gives the node its address and describes the pods' network to the container runtime."""
    run(["ip", "address", "replace", f"{addresses.NODE}/32", "dev", "lo"])  # not every kernel has dummy devices
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    cni.mkdir(parents=True)
    (cni / "10-bridge.conflist").write_text(json.dumps(_bridge(state)))


def down() -> None:
    """Takes away the address, the bridge with all that hangs on it, and the iptables rules of kube-proxy and bridge."""
    for port in Path(f"/sys/class/net/{BRIDGE}/brif").glob("*"):
        succeeds(["ip", "link", "delete", port.name])
    succeeds(["ip", "link", "delete", BRIDGE])
    succeeds(["ip", "address", "delete", f"{addresses.NODE}/32", "dev", "lo"])
    for tool in _tools():
        script = _removal(_saved(tool))
        if script:
            run([f"{tool}-restore", "--noflush"], stdin=script)


def _bridge(state: Path) -> dict[str, object]:
    assignment = {
        "type": "host-local",
        "dataDir": str(state / "addresses"),
        "ranges": [[{"subnet": addresses.NODE_PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": True, "hairpinMode": True}
    return {"cniVersion": "1.0.0", "name": _NETWORK, "plugins": [bridge | {"ipam": assignment}]}


def _tools() -> list[str]:
    return [tool for tool in ("iptables", "ip6tables") if succeeds([f"{tool}-save"])]


def _saved(tool: str) -> str:
    return run([f"{tool}-save"])


def _chains(saved: str) -> list[str]:
    """The chains of kube-proxy and kubelet, and those that the bridge made for our network."""
    kubernetes = re.findall(r"^:(KUBE-\S+)", saved, re.M)
    bridge = re.findall(rf"^-A POSTROUTING .*{_NETWORK}.* -j (CNI-\S+)$", saved, re.M)
    return [*kubernetes, *dict.fromkeys(bridge)]


def _removal(saved: str) -> str:
    """What iptables-restore must read to remove those chains and every rule that leads into them."""
    ours = set(_chains(saved))
    script = []
    for table in re.findall(r"^\*\w+$.*?^COMMIT$", saved, re.M | re.S):
        lines = table.splitlines()
        chains = [words[0][1:] for line in lines if line.startswith(":") and (words := line.split())[0][1:] in ours]
        if not chains:
            continue
        jumps = [line for line in lines if line.startswith("-A ") and _leads_in(line, ours)]
        script += [lines[0], *(f":{chain} - [0:0]" for chain in chains)]  # naming a chain empties it
        script += [f"-D{line[2:]}" for line in jumps]
        script += [*(f"-X {chain}" for chain in chains), "COMMIT"]
    return "".join(f"{line}\n" for line in script)


def _leads_in(rule: str, ours: set[str]) -> bool:
    target = re.search(r" -[jg] (\S+)", rule)
    return rule.split()[1] not in ours and target is not None and target[1] in ours
