"""What `helium-jax serve` says of memory: a sum, and what is left."""

from helium_jax.engine.memory import MemoryUse

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def describe_memory(use: MemoryUse, free_bytes: int) -> str:
    """One line: parts, their sum, and what nobody uses."""
    parts = (("weights", use.weights), ("KV", use.kv), ("scratch", use.scratch))
    spelled = " + ".join(f"{name} {describe_bytes(size)}" for name, size in parts)
    return f"{spelled} = {describe_bytes(use.total)}, {describe_bytes(free_bytes)} free"


def describe_bytes(size: int) -> str:
    """A size in the largest unit of which there is at least one."""
    value, unit = float(size), 0
    while value >= 1024 and unit + 1 < len(_UNITS):
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{size} B"
