"""The constraints files pin exactly what the extras ask for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "operator": ("operator",),
    "trainer": ("trainer", "tracking"),
    "dev": ("operator", "trainer", "tracking", "dev"),
}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("name", EXTRAS)
def test_every_requirement_is_pinned_at_a_version_that_it_allows(name: str) -> None:
    listed = [
        *PROJECT["dependencies"],
        *(each for extra in EXTRAS[name] for each in PROJECT["optional-dependencies"][extra]),
    ]
    for requirement in map(Requirement, listed):
        version = pins(name)[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} and {version}"


@pytest.mark.parametrize("name", EXTRAS)
def test_a_constraints_file_is_nothing_but_pins(name: str) -> None:
    for line in (ROOT / "constraints" / f"{name}.txt").read_text().splitlines():
        assert re.fullmatch(r"#.*|[a-z0-9-]+==[A-Za-z0-9.!+-]+", line)


def test_what_two_files_share_they_pin_alike() -> None:
    dev = pins("dev")
    assert pins("operator").items() <= dev.items()
    assert pins("trainer").items() <= dev.items()


def test_the_operator_needs_no_torch() -> None:
    assert not {"torch", "transformers", "numpy", "deepspeed"} & pins("operator").keys()


def test_no_image_carries_what_only_a_benchmark_uses() -> None:
    assert "datasets" in pins("dev")
    assert not {"datasets", "pandas", "multiprocess"} & (pins("trainer") | pins("operator")).keys()
