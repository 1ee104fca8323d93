"""Apple's chips: memory bandwidth, GPU cores, and what is known of their arithmetic. Data, with its sources.

Bandwidth is what Apple states, in GB/s of 10^9 bytes; `source` is Apple's own page and its date. None of the pages
could be fetched when this was written (21 November 2026): `seen` says what was read instead. Apple states no
bandwidth for the M1; 68.25 is LPDDR4X-4266 on a bus of 128 bits. Chips of one name differ by their GPU (M3, M4 and
M5 Max); `find_chip` tells them apart by its cores. Not in the table: M4 Ultra (never made), M6, iPad and iPhone chips.

Arithmetic is FP32 teraflops of the whole GPU, as huggingface.js lists them (packages/tasks/src/hardware.ts, a third
party; Apple itself has stated 2.6, 10.4, 21 and 3.6 for M1, M1 Max, M1 Ultra and M2). It is an order of magnitude,
not a limit: half precision was seen to run 1.1 times as fast on an M3 Max, and M5's matrix units about 4 times.

`memory_gib` is the most that a machine with the chip is sold with, by Apple's tech specs as of the same date (Apple
writes GB and means GiB); None where it is not known here, and then every build is taken to fit.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chip:
    """One chip, in one of its sizes. `tflops_fp32` and `memory_gib` are None where no source states them."""

    name: str
    gpu_cores: int
    bandwidth_gbs: float
    source: str
    seen: str
    tflops_fp32: float | None
    memory_gib: int | None = None

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.bandwidth_gbs * 1e9

    @property
    def title(self) -> str:
        """Name and GPU. ``"M4 Max, 40-core GPU"``"""
        return f"{self.name}, {self.gpu_cores}-core GPU"


_PRESS = "press reports of Apple's statement"
_PAGE = "a stored copy of Apple's page"
_CAPTURE = "a third party's capture of apple.com/mac-studio/specs of 13 September 2026"
_STUDIO_25 = "Apple, Mac Studio (2025) tech specs and newsroom, 5 March 2025"
_M1 = "not stated by Apple: LPDDR4X-4266 × 128 bits, as Tom's Hardware had it on 18 October 2021"
_M1_PRO = "Apple newsroom, Introducing M1 Pro and M1 Max, 18 October 2021"
_M1_ULTRA = "Apple newsroom, M1 Ultra, 8 March 2022"
_M2 = "Apple newsroom, M2, 6 June 2022"
_M2_PRO = "Apple newsroom, M2 Pro and M2 Max, 17 January 2023"
_M2_ULTRA = "Apple newsroom, M2 Ultra, 5 June 2023"
_M3 = "Apple, MacBook Pro (14-inch, Nov 2023) tech specs"
_M3_PRO = "Apple, MacBook Pro (16-inch, Nov 2023) tech specs, support.apple.com/117737"
_M4 = "Apple newsroom, M4, 7 May 2024"
_M4_PRO = "Apple newsroom, M4 Pro and M4 Max, 30 October 2024"
_M4_MAX = "Apple, MacBook Pro (2024) tech specs"
_M5 = "Apple newsroom, M5, 15 October 2025"
_M5_PRO = "Apple newsroom, M5 Pro and M5 Max, 3 March 2026"
_STUDIO_26 = "Apple, Mac Studio (2026) tech specs and newsroom, August 2026"

CHIPS: tuple[Chip, ...] = (
    Chip("M1", 8, 68.25, _M1, "Tom's Hardware", 2.6, 16),
    Chip("M1 Pro", 16, 200, _M1_PRO, _PRESS, 5.2, 32),
    Chip("M1 Max", 32, 400, _M1_PRO, _PRESS, 10.4, 64),
    Chip("M1 Ultra", 64, 800, _M1_ULTRA, _PRESS, 21, 128),
    Chip("M2", 10, 100, _M2, _PRESS, 3.6, 24),
    Chip("M2 Pro", 19, 200, _M2_PRO, _PRESS, 6.8, 32),
    Chip("M2 Max", 38, 400, _M2_PRO, _PRESS, 13.49, 96),
    Chip("M2 Ultra", 76, 800, _M2_ULTRA, _PRESS, 27.2, 192),
    Chip("M3", 10, 100, _M3, _PRESS, 4.1, 24),
    Chip("M3 Pro", 18, 150, _M3_PRO, _PAGE, 7.4, 36),
    Chip("M3 Max", 30, 300, _M3_PRO, _PAGE, 10.65, 96),
    Chip("M3 Max", 40, 400, _M3_PRO, _PAGE, 14.2, 128),
    Chip("M3 Ultra", 60, 819, _STUDIO_25, _PRESS, 21.3, 256),
    Chip("M3 Ultra", 80, 819, _STUDIO_25, _PRESS, 28.4, 512),
    Chip("M4", 10, 120, _M4, _PRESS, 4.6, 32),
    Chip("M4 Pro", 20, 273, _M4_PRO, _PRESS, 9.2, 64),
    Chip("M4 Max", 32, 410, _M4_MAX, _PRESS, 14.72, 36),
    Chip("M4 Max", 40, 546, _M4_PRO, _PRESS, 18.4, 128),
    Chip("M5", 10, 153, _M5, _PRESS, 5.7, 32),
    Chip("M5 Pro", 20, 307, _M5_PRO, _PRESS, 11.4),
    Chip("M5 Max", 32, 460, _STUDIO_26, _CAPTURE, 18.24),
    Chip("M5 Max", 40, 614, _M5_PRO, _PRESS, 22.8),
    Chip("M5 Ultra", 64, 1200, _STUDIO_26, _CAPTURE, None),
    Chip("M5 Ultra", 80, 1200, _STUDIO_26, _CAPTURE, None),
)


def chips_named(name: str) -> list[Chip]:
    """Every size of a chip, the largest last. ``chips_named("Apple M3 Max")`` has two."""
    plain = " ".join(name.lower().replace("apple", " ").split())
    return [chip for chip in CHIPS if chip.name.lower() == plain]


def find_chip(name: str | None, gpu_cores: int | None = None) -> Chip | None:
    """The chip of a machine: of its sizes the one with these GPU cores, else the fastest, as suits a ceiling."""
    sizes = chips_named(name or "")
    exact = [chip for chip in sizes if chip.gpu_cores == gpu_cores]
    return exact[0] if exact else sizes[-1] if sizes else None
