"""Numbers and times as people read them in status."""

from datetime import UTC, datetime


def timestamp(seconds: float) -> str:
    """Unix seconds as the API writes times: `2026-01-31T12:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(text: str) -> float:
    """Unix seconds of a time as the API writes it."""
    return datetime.fromisoformat(text).timestamp()


def percent(part: int, whole: int) -> str:
    """`42%`, rounded down: 100% means all of it."""
    return f"{100 * part // whole}%"


def duration(seconds: float) -> str:
    """`2d03h`, `1h12m`, `12m`, `45s`."""
    whole = max(0, round(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m" if minutes else f"{whole}s"


def memory(size_bytes: int) -> str:
    """`53.9Gi`, or `612Mi` below one."""
    return f"{size_bytes / 2**30:.1f}Gi" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f}Mi"


def shortened(text: str, limit: int) -> str:
    """`text`, with its end cut off where it is longer than `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
