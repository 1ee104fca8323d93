"""What else the machine did while it was measured: other processes, clocks, heat, power mode, energy.

All of it is read without root, and only what the system tells openly: on Linux /proc and /sys, on macOS `pmset`,
`sysctl`, `notifyutil` and `system_profiler`. What cannot be read is None, and `unreadable` says why. The macOS side
was written from its documentation and from other tools; nothing was run on Apple hardware here.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..disk.programs import ProgramError, run_program

MAC = sys.platform == "darwin"
_CPUFREQ = "sys/devices/system/cpu"
_POWERCAP = "sys/class/powercap"
_PRESSURE = ("nominal", "moderate", "heavy", "trapping", "sleeping")  # OSThermalNotification.h

BUSY_CORES = 0.25  # other processes using more than this on average are worth a note
SLOW_CLOCK = 0.6  # below this share of a core's maximum, which it reaches alone, it is throttled
SLOWED = 0.05  # throughput that falls by more than this from the first to the last round, too


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at one moment; the difference of two tells what happened between them.

    `busy_s` is CPU time that all processes used, `own_s` what this one used (None: not told). `clock` is the
    fastest core's clock over its maximum, `pressure` macOS's level of thermal pressure, `energy_j` RAPL's packages.
    """

    at: float
    load: float | None
    busy_s: float | None
    own_s: float
    clock: float | None
    pressure: int | None
    energy_j: float | None


def read_conditions(root: Path = Path("/")) -> Reading:
    """Read everything that can be read in a few milliseconds. `root` is another tree for tests."""
    times = os.times()
    return Reading(
        at=time.perf_counter(),
        load=_load(),
        busy_s=_busy_seconds(root),
        own_s=times.user + times.system,
        clock=_clock_share(root),
        pressure=_thermal_pressure(),
        energy_j=_energy(root),
    )


def between(before: Reading, after: Reading) -> dict[str, Any]:
    """What a sample's record says of its time: cores that others used, clock, thermal pressure, energy."""
    seconds = max(after.at - before.at, 1e-9)
    others = None
    if before.busy_s is not None and after.busy_s is not None:
        others = max(0.0, (after.busy_s - before.busy_s) - (after.own_s - before.own_s)) / seconds
    energy = None
    if before.energy_j is not None and after.energy_j is not None and after.energy_j >= before.energy_j:
        energy = round(after.energy_j - before.energy_j, 3)
    return {
        "others_cores": None if others is None else round(others, 3),
        "clock_share": after.clock,
        "thermal_pressure": max((p for p in (before.pressure, after.pressure) if p is not None), default=None),
        "energy_j": energy,
    }


def power_mode() -> str | None:
    """How the system balances speed against power, in its own words; None where it does not say."""
    if MAC:
        return _mac_power_mode(_run("pmset", "-g"), _run("pmset", "-g", "batt"))
    profile = _text(Path("/sys/firmware/acpi/platform_profile"))
    governor = _text(Path("/", _CPUFREQ, "cpu0/cpufreq/scaling_governor"))
    return (
        ", ".join(f"{name} {value}" for name, value in (("profile", profile), ("governor", governor)) if value) or None
    )


def gpu_cores() -> int | None:
    """Cores of Apple's GPU, by which chips of one name differ; None elsewhere."""
    if not MAC:
        return None
    match = re.search(r"Total Number of Cores:\s*(\d+)", _run("system_profiler", "SPDisplaysDataType"))
    return int(match[1]) if match else None


def unreadable(root: Path = Path("/")) -> list[str]:
    """Why energy, clocks or heat are missing from the figures."""
    if MAC:
        return ["energy: macOS tells it only to root (powermetrics)", "clocks: macOS tells them only to root"]
    reasons = []
    if not _packages(root):
        reasons.append(f"energy: no RAPL counters (/{_POWERCAP}) on this machine")
    elif _energy(root) is None:
        reasons.append(f"energy: /{_POWERCAP}/*/energy_uj is readable by root only")
    if _clock_share(root) is None:
        reasons.append(f"clocks: no /{_CPUFREQ}/*/cpufreq, so throttling shows only as rounds that get slower")
    return reasons


def condition_notes(rows: Sequence[dict[str, Any]], start: Reading, cores: int | None) -> list[str]:
    """Say when the machine was busy or throttled, from the samples of a run and the load before it."""
    notes = []
    if start.load is not None and start.load > max(0.5, 0.25 * (cores or 1)):
        notes.append(f"busy: load average {start.load:.1f} on {cores} cores before anything was measured")
    others = [r["others_cores"] for r in rows if r.get("others_cores") is not None]
    if others and sum(others) / len(others) > BUSY_CORES:
        notes.append(
            f"busy: other processes used {sum(others) / len(others):.1f} of {cores} cores on average"
            f" (up to {max(others):.1f}) while it was measured"
        )
    clocks = [r["clock_share"] for r in rows if r.get("clock_share") is not None]
    if clocks and min(clocks) < SLOW_CLOCK:
        notes.append(f"throttled: clocks fell to {100 * min(clocks):.0f} % of their maximum")
    hot = [r["thermal_pressure"] for r in rows if r.get("thermal_pressure")]
    if hot:
        worst = _PRESSURE[min(max(hot), len(_PRESSURE) - 1)]
        notes.append(f"throttled: thermal pressure up to {worst!r} in {len(hot)} of {len(rows)} runs")
    notes.extend(_slowed(rows))
    return notes


def _slowed(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Compare the last round with the first, over whatever both measured."""
    timed = [r for r in rows if r.get("tok_s")]
    first, last = min((r["round"] for r in timed), default=0), max((r["round"] for r in timed), default=0)
    if last - first < 2:
        return
    rates = {(r["build"], r["test"], r["round"]): r["tok_s"] for r in timed}
    changes = [
        rates[build, test, last] / rate
        for (build, test, number), rate in rates.items()
        if number == first and (build, test, last) in rates
    ]
    if changes and max(changes) < 1 - SLOWED:
        fall = 100 * (1 - sum(changes) / len(changes))
        yield f"throttled or busier: everything was slower in round {last} than in round {first}, by {fall:.0f} %"


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _busy_seconds(root: Path) -> float | None:
    """CPU seconds that all processes have used: user, nice, system, irq, softirq and stolen time."""
    fields = _text(root / "proc/stat").partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    user, nice, system, _idle, _wait, irq, soft, steal = (int(f) for f in fields[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _clock_share(root: Path) -> float | None:
    """Current over maximum clock of the core that is fastest now: idle ones are slow without being throttled."""
    shares = []
    for folder in sorted((root / _CPUFREQ).glob("cpu[0-9]*/cpufreq")):
        now, most = _text(folder / "scaling_cur_freq"), _text(folder / "cpuinfo_max_freq")
        if now.isdigit() and most.isdigit() and int(most):
            shares.append(int(now) / int(most))
    return round(max(shares), 3) if shares else None


def _thermal_pressure() -> int | None:
    if not MAC:
        return None
    words = _run("notifyutil", "-g", "com.apple.system.thermalpressurelevel").split()
    return int(words[-1]) if words and words[-1].isdigit() else None


def _packages(root: Path) -> list[Path]:
    return sorted(p for p in (root / _POWERCAP).glob("intel-rapl:*") if p.name.count(":") == 1)


def _energy(root: Path) -> float | None:
    """Joules that the processor packages have used since boot (the counters wrap every few hours)."""
    counters = [_text(p / "energy_uj") for p in _packages(root)]
    return sum(int(c) for c in counters) / 1e6 if counters and all(c.isdigit() for c in counters) else None


def _mac_power_mode(settings: str, battery: str) -> str | None:
    """Read `pmset -g` and `pmset -g batt`: "automatic, AC Power"."""
    words = {"0": "automatic", "1": "low power", "2": "high power"}
    mode = re.search(r"^\s*(?:powermode|lowpowermode)\s+(\d)", settings, re.M)
    supply = re.search(r"drawing from '([^']+)'", battery)
    parts = [words.get(mode[1]) if mode else None, supply[1] if supply else None]
    return ", ".join(p for p in parts if p) or None


def _run(*command: str) -> str:
    try:
        return run_program(*command, seconds=20)
    except ProgramError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
