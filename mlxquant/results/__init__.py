"""Result files of other harnesses as paired figures with intervals; today those of τ²-bench and τ-bench (`tau2`).

Nothing is run here. A harness is a package of its own: it reads the files, pairs two of them by task and trial, and
makes a record that `validate` and `report` take.
"""

__all__ = ["tau2"]
