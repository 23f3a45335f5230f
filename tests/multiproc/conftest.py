"""Models and tokens that all multi-process tests share, and the runs of one process that they are compared with."""

from pathlib import Path

import pytest

from multiproc import cases, parity
from multiproc.cases import write_tokens
from multiproc.parity import Cell, Deviation
from multiproc.ranks import on_ranks
from support.tiny import ODD_VOCAB_SIZE, REAL_VOCAB_SIZE, odd_model_dir, tiny_model_dir

PARITY_PAGE = Path(__file__).parents[2] / "docs" / "parity.md"
DEVIATIONS = pytest.StashKey[dict[Cell, Deviation]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--write-parity`."""
    parser.addoption("--write-parity", action="store_true", help="write docs/parity.md from what the tests find")


def pytest_configure(config: pytest.Config) -> None:
    """A place for what the parity tests find."""
    config.stash[DEVIATIONS] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The parity table, once all of it is there."""
    found = config.stash[DEVIATIONS]
    if not found:
        return
    terminalreporter.section("parity: largest relative deviation of loss / gradient norm from one process")
    terminalreporter.write_line(parity.table(found))
    if config.getoption("--write-parity"):
        PARITY_PAGE.write_text(parity.page(found), encoding="utf-8")


@pytest.fixture(scope="session")
def deviations(pytestconfig: pytest.Config) -> dict[Cell, Deviation]:
    """Where the parity tests leave what they find."""
    return pytestconfig.stash[DEVIATIONS]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of this folder write."""
    return tmp_path_factory.mktemp("multiproc")


@pytest.fixture(scope="session")
def model(folder: Path) -> Path:
    """A tiny Qwen3 with tied embeddings and the real Qwen3 tokenizer's vocabulary."""
    return tiny_model_dir(folder, "real")


@pytest.fixture(scope="session")
def tokens(folder: Path) -> Path:
    """Documents of uneven length, over the whole vocabulary."""
    return write_tokens(folder / "tokens", vocab_size=REAL_VOCAB_SIZE)


@pytest.fixture(scope="session")
def small_model(folder: Path) -> Path:
    """The same with a vocabulary of 1,024, where its size does not matter."""
    return tiny_model_dir(folder, "tiny")


@pytest.fixture(scope="session")
def small_tokens(folder: Path) -> Path:
    """Documents for the small vocabulary."""
    return write_tokens(folder / "small-tokens", vocab_size=1024)


@pytest.fixture(scope="session")
def odd_model(folder: Path) -> Path:
    """One whose matrices no number of ranks cuts into equal parts."""
    return odd_model_dir(folder)


@pytest.fixture(scope="session")
def odd_tokens(folder: Path) -> Path:
    """Documents for the odd vocabulary."""
    return write_tokens(folder / "odd-tokens", vocab_size=ODD_VOCAB_SIZE)


@pytest.fixture(scope="session")
def one_process(folder: Path, odd_model: Path, odd_tokens: Path) -> dict[str, Path]:
    """What one process makes of the whole batch: output folders of 10 steps of LoRA and of Full."""
    outputs = {"LoRA": folder / "one-lora", "Full": folder / "one-full"}
    for method, output in outputs.items():
        run = cases.config(output, odd_model, odd_tokens, method=parity.METHODS[method])
        on_ranks(1, cases.train, run, log=folder / "one-process")
    return outputs
