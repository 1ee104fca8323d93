"""One HTML page from any mix of records: what builds are, where they differ, what they err by, how fast they run.

The page stands alone: style, script and charts are in it, it asks the network for nothing (a content security policy
says so to the browser), and nothing in a record can become markup or script. Plan and audit records of one model stand
side by side; diff and bench records have sections of their own; a record that this version does not know is shown
as far as its top level goes. Only records are read: no build, no mlx.

The precision map and the table of tensors are HTML tables, which a keyboard and a screen reader can walk. The charts
are SVG from the page's own templates, coloured by its style sheet, so that one drawing serves light, dark and print,
and a reader chooses which candidates are drawn; see `page.charts`. matplotlib (an install of its own, no choice in
the page) and Plotly (4.8 MB of script in every page) were weighed.
"""

__all__ = [
    "allocate",
    "audit",
    "audit_markdown",
    "bench",
    "bench_tables",
    "build",
    "card",
    "compare",
    "diff",
    "eval",
    "load",
    "page",
    "plan",
    "predict",
    "results",
    "rollout",
    "sweep",
    "tables",
    "tau2",
    "verdict",
    "verdict_exports",
]
