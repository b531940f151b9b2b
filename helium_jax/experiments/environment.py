"""Where and with what a result was measured: fields of every record."""

import datetime
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax


def environment() -> dict[str, Any]:
    """Device, versions, commit and date."""
    device = jax.devices()[0]
    on_cpu = device.platform == "cpu"
    return {
        "device": f"{_cpu_name()}, {os.cpu_count()} cores" if on_cpu else device.device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "version": version("helium-jax"),
        "commit": _commit(Path(__file__).parent),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ"),
    }


def load_average() -> float:
    """Runnable processes over the last minute: at more than 0 before a start, others are busy."""
    return round(os.getloadavg()[0], 2)


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit(folder: Path) -> str:
    """Of the checkout that holds `folder`; "" outside of one, as in an installed package."""

    def git(*arguments: str) -> str:
        try:
            return subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
            ).stdout.strip()
        except FileNotFoundError:
            return ""

    commit = git("rev-parse", "--short", "HEAD")
    return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
