"""The gate: tolerances, written before measuring, held against records. No mlx here, and no build: records alone.

tolerances   a TOML file with all its mistakes; `records.metrics` lists the figures that it may name
template     the file that `validate --init` writes
evidence     what records say, whatever command wrote them; `reading` reads them
joining      which side of each record a candidate is, whatever each record calls it
agreement    which candidate it is about; records of different builds, sources or machines are refused
judge        PASS, FAIL, INCONCLUSIVE, TOO FEW, MISSING
verdict      the record, with what such evidence cannot say; `report.verdict` and `report.verdict_exports` show it
commits      when the tolerances were committed, as git tells it
since        what must be measured again after the stack changed
"""

from __future__ import annotations

from .reading import read_evidence
from .template import template_text
from .tolerances import Tolerance, ToleranceError, Tolerances, read_tolerances
from .verdict import SCHEMA, validate

__all__ = [
    "SCHEMA",
    "Tolerance",
    "ToleranceError",
    "Tolerances",
    "agreement",
    "evidence",
    "joining",
    "judge",
    "read_evidence",
    "read_tolerances",
    "reading",
    "since",
    "template_text",
    "tolerances",
    "validate",
    "verdict",
]
