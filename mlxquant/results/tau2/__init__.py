"""τ²-bench result files as measurements: the paper's table, with the intervals that it did not have.

A file is read whatever its form (`reading`, `parsing`), its figures are worked out by τ²'s own formulas, a later file
is paired with the first by task and trial (`figures`), and all of it becomes a record (`record`) that `validate` and
`report` take. Nothing is run here: what served the model is not in these files.
"""

from __future__ import annotations

from .parsing import Results
from .reading import read_results, recognises
from .record import SCHEMA, make_record

__all__ = ["SCHEMA", "Results", "make_record", "read_results", "recognises"]
