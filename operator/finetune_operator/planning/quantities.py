"""Kubernetes quantities (`64Gi`, `500m`, `8`) as exact numbers, and multiples of them."""

import re
from decimal import ROUND_CEILING, Decimal

_FACTORS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti"), start=1)},
}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|Ki|M|Mi|G|Gi|T|Ti)?")

GIB = 1024**3


def quantity_bytes(quantity: str) -> int:
    """Bytes in `quantity`, rounded up to a whole one as Kubernetes does. Raises ValueError for anything else."""
    number, suffix = _parts(quantity)
    return int((number * _FACTORS[suffix]).to_integral_value(ROUND_CEILING))


def multiplied(quantity: str, factor: int) -> str:
    """`factor` times `quantity`, in its own unit: `64Gi` x 4 = `256Gi`, `500m` x 3 = `1500m`."""
    number, suffix = _parts(quantity)
    return f"{(number * factor).normalize():f}{suffix}"


def gib(size_bytes: int) -> str:
    """`size_bytes` for people: `15.3 GiB`."""
    return f"{size_bytes / GIB:.1f} GiB"


def _parts(quantity: str) -> tuple[Decimal, str]:
    match = _QUANTITY.fullmatch(quantity)
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity; write a number with m, k, M, G, T, Ki, Mi, Gi, Ti or no suffix")
    return Decimal(match[1]), match[2] or ""
