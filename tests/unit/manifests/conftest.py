import pytest
from hypothesis import settings

settings.register_profile("unit", deadline=None)  # machines that run tests are busy, and imports are slow
settings.load_profile("unit")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden; review the diff")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether to write what is found instead of comparing it."""
    return bool(request.config.getoption("--update-golden", default=False))
