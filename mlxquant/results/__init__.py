"""Result files of other harnesses as paired figures with intervals.

Nothing is run here. A harness is a reader: it makes items of its files (`items`). What is measured of them (`figures`),
how two files are paired by question and trial (`pairing`), and the record that `validate` and `report` take are the
same for all.
"""

__all__ = ["figures", "items", "pairing", "tau2"]
