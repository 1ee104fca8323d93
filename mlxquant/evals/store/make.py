"""Make a task from a seed and a number of calls.

The shipped tiny model was trained on what comes out for seeds from 0, and is judged on seeds from 1,000,000: any draw
added, dropped or moved, here or in the requests, makes other tasks of all seeds, which a test notices.

Alone in its module because all worlds' tasks are made by it, `deep`'s too, from draws of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ...errors import UsageError
from .conversation import Conversation
from .database import Store
from .requests import item_request, order_request, user_request
from .tasks import Task

FEWEST_CALLS = 5
MOST_CALLS = 200


def make_task(seed: int, n_calls: int) -> Task:
    """Make the task of a seed with exactly `n_calls` (5 to 200) expected calls, the same on every machine.

    Raises UsageError outside these bounds.
    """
    return played("tool-loop", f"mlxquant.task {seed} {n_calls}", seed, n_calls, draw_request)


def played(world: str, stream: str, seed: int, n_calls: int, draw: Callable[[Conversation, int], None]) -> Task:
    """Let `draw` make requests, each within the calls that are left, until there are `n_calls`; UsageError as above.

    `stream` seeds what is drawn; `world` begins the task's id.
    """
    if not FEWEST_CALLS <= n_calls <= MOST_CALLS:
        raise UsageError(f"a tool loop has {FEWEST_CALLS} to {MOST_CALLS} calls, not {n_calls}")
    with Store(seed) as store:
        talk = Conversation(store, Random(stream))
        while talk.made < n_calls:
            draw(talk, n_calls - talk.made)
    slices = tuple(sorted({each for turn in talk.turns for each in turn.slices}))
    return Task(f"{world}-{seed}-{n_calls}", seed, n_calls, tuple(talk.turns), slices)


def draw_request(talk: Conversation, budget: int) -> None:
    """Let the user ask for one thing that takes at most `budget` calls."""
    item = budget >= 2 or talk.same_item is not None
    order = budget >= 2 or talk.same_order is not None
    chosen = talk.rng.choices((order_request, item_request, user_request), (8 * order, 2 * item, 1))[0]
    chosen(talk, budget)
