"""Every value of the chart is checked, documented, and has an effect."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.shell import HarnessError

VALUES = yaml.safe_load((Path(__file__).parents[2] / "charts/qwen3-finetune/values.yaml").read_text())


def leaves(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


LEAVES = dict(leaves(VALUES))

# A second value where flipping, counting on or writing "other" would not do.
OTHER: dict[str, Any] = {
    "affinity": {"nodeAffinity": {}},
    "extraEnv": [{"name": "A", "value": "b"}],
    "limits.maxMemoryPerGpu": "128Gi",
    "limits.sources": ["Volume"],
    "limits.pushHubs": ["ModelScope"],
    "limits.s3Endpoints": ["*"],
    "fabrics": {"efa": {"resources": {"vpc.amazonaws.com/efa": "4"}}},
    "image.digest": f"sha256:{'a' * 64}",
    "trainer.image.digest": f"sha256:{'a' * 64}",
    "image.pullPolicy": "Always",
    "trainer.image.pullPolicy": "Always",
    "metrics.podMonitor.interval": "1m",
    "metrics.serviceMonitor.interval": "1m",
    "replicas": 3,
    "pricing.perGpuHour": {"nvidia.com/gpu": 2.5},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "trainer.sharedMemory": "1Gi",
    "trainer.prepareCpu": "1",
    "trainer.prepareMemory": "1Gi",
    **{
        f"networkPolicy.{who}.{rules}": [{}]
        for who in ("operator", "trainer")
        for rules in ("extraIngress", "extraEgress")
    },
}
# What must be switched on for a value to matter.
ALL_ON: dict[str, Any] = {
    "replicas": 2,
    "metrics": {each: {"enabled": True} for each in ("serviceMonitor", "podMonitor", "prometheusRule")},
    "networkPolicy": {"operator": {"enabled": True}, "trainer": {"enabled": True, "namespaces": ["team"]}},
}


def other(path: str) -> Any:
    if path in OTHER:
        return OTHER[path]
    value = LEAVES[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list):
        return ["other"]
    return {"other": "other"} if isinstance(value, dict) else "other"


def with_value(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {**base, first: with_value(base.get(first, {}), rest, value) if rest else value}


@pytest.mark.parametrize("path", LEAVES)
def test_every_value_has_an_effect(render: Any, path: str) -> None:
    base = ALL_ON
    if path.endswith("trainer.enabled"):
        base = {"networkPolicy": {"trainer": {"namespaces": ["team"]}}}
    elif path.endswith(("Monitor.enabled", "Rule.enabled", "operator.enabled")):
        base = {}
    assert render(with_value(base, path, other(path))) != render(base)


@pytest.mark.parametrize("path", LEAVES)
def test_every_value_is_in_the_readme_with_its_default(chart: Path, path: str) -> None:
    rows = [line.split(" | ") for line in (chart / "README.md").read_text().splitlines() if line.startswith("| `")]
    table = {name.removeprefix("| ").strip("`"): (default.strip("`"), text) for name, default, text in rows}
    default, text = table[path]
    assert yaml.safe_load(default) == LEAVES[path]
    assert len(text) > 5
    assert table.keys() == LEAVES.keys()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"imgae": {}}, "additional properties 'imgae' not allowed"),
        ({"settings": {"resyncSecond": 5}}, "additional properties 'resyncSecond' not allowed"),
        ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy'"),
        ({"image": {"digest": "latest"}}, "at '/image/digest'"),
        ({"trainer": {"userId": 0}}, "at '/trainer/userId'"),
        ({"trainer": {"environment": {"A": 1}}}, "at '/trainer/environment/A'"),
        ({"settings": {"progressIntervalSeconds": 0}}, "at '/settings/progressIntervalSeconds'"),
        ({"watchNamespaces": "team"}, "at '/watchNamespaces'"),
        ({"limits": {"queues": ["Research"]}}, "at '/limits/queues/0'"),
        ({"gangs": {"kueue": {"schedulerName": "kueue"}}}, "additional properties 'schedulerName' not allowed"),
        ({"fabrics": {"efa": {"privileged": True}}}, "additional properties 'privileged' not allowed"),
        ({"fabrics": {"efa": {"resources": {"vpc.amazonaws.com/efa": 4}}}}, "at '/fabrics/efa/resources"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(render: Any, values: dict[str, Any], expected: str) -> None:
    with pytest.raises(HarnessError) as refused:
        render(values)
    assert expected in str(refused.value)
