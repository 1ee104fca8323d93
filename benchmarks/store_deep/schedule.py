"""How store-deep is trained: steps, rows, rates."""

from __future__ import annotations

STEPS, TOKENS = 1900, 8192
# (until this step, lengths of rows to draw from)
STAGES = (
    (500, (512,)),
    (800, (512, 1024, 1024, 2048)),
    (1200, (512, 1024, 2048, 4096)),
    (10**9, (512, 1024, 2048, 4096, 8192)),
)
READ = 0.1
RATES = {"matrix": 0.02, "embedding": 0.02, "head": 0.004, "other": 0.01}
PACE = ((0, 0.0), (40, 1.0), (900, 1.0), (STEPS, 0.0))
BALANCE = 0.001
