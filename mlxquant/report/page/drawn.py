"""Which of many candidates a chart shows: it has six colours, and what is left out must not be what broke."""

from __future__ import annotations

from collections.abc import Sequence

COLOURS = 6


def most_telling(damages: Sequence[float | None], most: int = COLOURS) -> list[int]:
    """Return the indices, in their order, of at most `most` candidates from the least damaged to the most.

    Both ends are in, the others as evenly between them as ranks allow; what has no figure counts as undamaged.

    >>> most_telling([0.1, 0.2, 0.3, 9.0], 3)
    [0, 2, 3]
    """
    if len(damages) <= most:
        return list(range(len(damages)))
    ranked = sorted(range(len(damages)), key=lambda i: damages[i] or 0.0)
    step = (len(ranked) - 1) / (most - 1)
    return sorted(ranked[round(i * step)] for i in range(most))
