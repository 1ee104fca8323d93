"""Result files of other harnesses as paired figures with intervals.

Nothing is run here. A harness is a reader: it makes items of its files (`items`). What is measured of them (`figures`),
how two files are paired by question and trial (`pairing`), and the record that `validate` and `report` take (`record`)
are the same for all. τ²-bench's simulations have depths, actions and databases besides, and a record of their own
(`tau2`).
"""

__all__ = ["figures", "items", "pairing", "reader", "reading", "record", "tau2"]
