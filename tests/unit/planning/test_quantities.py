import pytest

from finetune_operator.planning.quantities import gib, multiplied, quantity_bytes


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("8", 8),
        ("64Gi", 64 * 2**30),
        ("1.5Gi", 3 * 2**29),
        ("80G", 80 * 10**9),
        ("1k", 1000),
        ("1Ki", 1024),
        ("2Ti", 2**41),
        ("1500m", 2),  # rounded up, as Kubernetes rounds a fraction of a byte
    ],
)
def test_a_quantity_is_exact_bytes(quantity: str, expected: int) -> None:
    assert quantity_bytes(quantity) == expected


@pytest.mark.parametrize("text", ["", "Gi", "-1", "1 Gi", "1Pi2", "1e3", "٣"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantity_bytes(text)


@pytest.mark.parametrize(
    ("quantity", "factor", "expected"),
    [
        ("64Gi", 4, "256Gi"),
        ("500m", 3, "1500m"),
        ("8", 8, "64"),
        ("1.5Gi", 2, "3Gi"),
        ("0.25", 2, "0.5"),
        ("10", 10, "100"),
    ],
)
def test_a_multiple_keeps_its_unit(quantity: str, factor: int, expected: str) -> None:
    assert multiplied(quantity, factor) == expected
    assert quantity_bytes(multiplied(quantity, factor)) >= factor * (quantity_bytes(quantity) - 1)


def test_gib_is_for_people() -> None:
    assert gib(16_381_470_720) == "15.3 GiB"
