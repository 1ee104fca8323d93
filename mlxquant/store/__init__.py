"""A small deterministic store with sixteen tools, its policy, and tasks of 5 to 200 tool calls.

The world that `eval` judges agent loops in, that the tiny model of the demo was trained on, and that part of
`compare`'s built-in data comes from. Pure Python and SQLite; it runs no model and knows none.
"""

from mlxquant.store.database import Store
from mlxquant.store.make import make_task
from mlxquant.store.policy import POLICY, SYSTEM_PROMPT
from mlxquant.store.tasks import Call, Task, Turn, transcript
from mlxquant.store.tools import TOOLS, Tool, openai_tools

__all__ = [
    "POLICY",
    "SYSTEM_PROMPT",
    "TOOLS",
    "Call",
    "Store",
    "Task",
    "Tool",
    "Turn",
    "make_task",
    "openai_tools",
    "transcript",
]
