"""The head of records, and what a figure was made on: chip, cores, memory, operating system, versions of the stack.

No user name, host name or path: these records are published. Standard library only; on macOS the chip's name
comes from `sysctl`, on Linux from /proc/cpuinfo.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..disk.programs import ProgramError, run_program

PACKAGES = ("mlxquant", "mlx", "mlx-lm", "numpy", "numba")


def head(schema: str) -> dict[str, str]:
    """The first entries of every record: its schema with the version of that, and the version of mlxquant."""
    from .. import __version__

    return {"schema": schema, "mlxquant": __version__}


def utc_date(moment: datetime | None = None) -> str:
    """A moment with a time zone (now, where none is given) as records write it: ``2026-11-28T09:30:00Z``."""
    return (moment or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe_machine() -> dict[str, Any]:
    """Chip, cores, memory in bytes and operating system; what cannot be told is None."""
    return {
        "chip": _chip(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "os": _os(),
    }


def describe_versions() -> dict[str, str | None]:
    """Versions of what a build's bytes depend on; None where a package is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


@cache
def _version(name: str) -> str | None:
    if name == "mlxquant":
        from .. import __version__

        return __version__
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _chip() -> str | None:
    if sys.platform == "darwin":
        try:
            return run_program("sysctl", "-n", "machdep.cpu.brand_string").strip() or None
        except ProgramError:
            return None
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None  # platform.processor() would run uname
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _os() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    return f"{platform.system()} {platform.release().split('-')[0]}"


def peak_memory() -> int:
    """The largest resident size that this process had, in bytes.

    Linux keeps it in /proc/self/status; its `ru_maxrss` starts at the size of the process that started this one.
    Elsewhere `ru_maxrss` it is, in bytes on macOS.
    """
    try:
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
