"""JSON records: how every command writes, reads and checks them, and how figures are found in them.

    files          text and reading; a record is checked by its schema before anything counts on it
    schemas        a JSON Schema for each kind, and what figures must be besides (`sense`)
    candidates     what a candidate is (hashes) and what it is called (names)
    head           what every record begins with: schema, version, date, machine
    loading        records as a report takes them, known by a name
    metrics        the one list of metrics: name, unit, which way is better, range
    measurements   making a measurement, and finding one by metric and place
    modules        what plan and audit records say of modules, and their errors taken together
    rows           a record as flat tables
    diff           two records of plans or builds side by side

Knows no checkpoint and no build: everything here is a function of records.
"""

__all__ = ["candidates", "diff", "files", "head", "loading", "measurements", "metrics", "modules", "rows", "schemas"]
