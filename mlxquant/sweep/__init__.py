"""The quantization audit: baseline, progressive quantization, threshold.

candidates   recipes × bits to try, and a comparison's candidates as families whose bits go down
run          one streamed pass for all, then the best few as real builds through `eval`
folder       the work folder of a sweep
frontier     what is worth its bytes, and where a family leaves each tolerance
recommend    the smallest inside every tolerance, and why nothing smaller is
record       judges by validate's tolerances, and makes the record; `report.sweep` shows it

`run` alone measures, by `divergence`, `builds` and `evals`; the others judge records, without mlx. KL decides only
which candidates are dominated: what counts as damage, and how much of it, is the tolerance file's.
"""

from __future__ import annotations

from .candidates import split_words, variations
from .record import SCHEMA, sweep

__all__ = ["SCHEMA", "folder", "run", "split_words", "sweep", "variations"]
