"""One metric by which a task's items pass, the same in every run that is compared.

A harness that has no word for a pass leaves it to the scores: an item passes where the first metric that is 0 or 1 for
every item is 1. Which one that is depends on the run: where a bad build scores 0 throughout, its F1 is such a metric
too, and the baseline's is not. So the runs are asked together; where they share no such metric, none of them passes or
fails. Alone in its module because it asks all runs at once, and readers know one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .items import ResultSet, judged


def judged_alike(sets: Sequence[ResultSet]) -> list[ResultSet]:
    """The runs, each task judged by one metric in all that have it; a note in each run that this changed."""
    alone = all(len(each.judges) == 1 for each in sets)  # one task in each, whatever the files call it
    tasks = [""] if alone else list(dict.fromkeys(task for each in sets for task in each.judges))
    runs = list(sets)
    for task in tasks:
        keys = [next(iter(each.judges)) if alone else task for each in sets]
        having = [(i, key, sets[i].judges[key]) for i, key in enumerate(keys) if key in sets[i].judges]
        if len({judges[:1] for _, _, judges in having}) < 2:
            continue
        shared = [name for name in having[0][2] if all(name in judges for _, _, judges in having)]
        for i, key, judges in having:
            if judges[:1] != tuple(shared[:1]):
                runs[i] = _judged(runs[i], key, shared[0] if shared else None)
    return runs


def _judged(run: ResultSet, task: str, metric: str | None) -> ResultSet:
    mine = [len(run.judges) == 1 or item.slices[:1] == (task,) for item in run.items]
    items = tuple(judged(item, metric) if own else item for item, own in zip(run.items, mine, strict=True))
    where, by = task or "its task", run.judges[task]
    note = (
        f"{where}: passed by {metric}, which is 0 or 1 in every run"
        if metric
        else (
            f"{where}: no pass, for no metric is 0 or 1 in every run" + (f" ({by[0]} is so here alone)" if by else "")
        )
    )
    return replace(run, items=items, notes=(*run.notes, note))
