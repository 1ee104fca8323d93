"""Contract suites: questions made by programs from seeds, or read from a file, each scored by a program.

`contracts` makes this project's own, `own` reads a user's, `bfcl` reads BFCL's question files; `scoring` judges
replies by the kinds that an item's `score` may name. No model judges another.
"""

__all__ = ["catalog", "scores_calls", "scores_text"]
