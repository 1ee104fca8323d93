"""The quantization audit: baseline, progressive quantization, threshold. Records judged; no mlx but in `measure`.

candidates   recipes × bits to try, and a comparison's candidates as families whose bits go down
measure      one streamed pass for all, then the best few as real builds through `eval`
frontier     what is worth its bytes; thresholds: where a family leaves each tolerance
recommend    the smallest inside every tolerance, and why nothing smaller is
record       judges by validate's tolerances, and makes the record; `text` and the report show it

KL decides nothing here but what is dominated: what counts as damage, and how much, is the tolerance file's.
"""

from __future__ import annotations

from .candidates import split_words, variations
from .record import SCHEMA, sweep

__all__ = ["SCHEMA", "split_words", "sweep", "variations"]
