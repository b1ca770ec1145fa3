"""Bytes, rates, times and counts in words, as all commands write them."""


def size_text(size_bytes: float) -> str:
    """Such as 3.1 GB, with powers of 1000."""
    return _scaled(size_bytes, "B")


def rate_text(bytes_per_s: float) -> str:
    """Such as 812 MB/s."""
    return _scaled(bytes_per_s, "B/s")


def seconds_text(seconds: float) -> str:
    """Such as 12 ms; keeps its sign."""
    size = abs(seconds)
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s")):
        if size < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 60:,.0f} min"


def duration_text(seconds: float) -> str:
    """Seconds as `12 s`, `3 m 05 s` or `1 h 02 m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} m"


def counted(number: int, what: str) -> str:
    """Such as 3 GPUs."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def listed(names: list[str], most: int = 8) -> str:
    """The names, separated by commas; of many the first ones, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _scaled(value: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G"):
        if value < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} T{unit}"
