"""The gate: tolerances, written before measuring, held against records. No mlx here, and no build: records alone.

tolerances   a TOML file with all its mistakes; `metrics` are the figures that it may name
evidence     what records say, whatever command wrote them; `reading` and `speeds` read them
agreement    which candidate it is about; records of different builds, sources or machines are refused
judge        PASS, FAIL, INCONCLUSIVE, TOO FEW, MISSING; `relative` compares what was not paired
verdict      the record; `text`, `exports` (Markdown, JUnit) and `report` show it; `caveats` say what it cannot
since        what must be measured again after the stack changed
"""

from __future__ import annotations

from .reading import read_evidence
from .tolerances import Tolerance, ToleranceError, Tolerances, default_text, read_tolerances
from .verdict import SCHEMA, validate

__all__ = [
    "SCHEMA",
    "Tolerance",
    "ToleranceError",
    "Tolerances",
    "agreement",
    "default_text",
    "evidence",
    "judge",
    "read_evidence",
    "read_tolerances",
    "reading",
    "since",
    "tolerances",
    "validate",
    "verdict",
]
