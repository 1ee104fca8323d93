"""A small deterministic store with sixteen tools, its policy, and tasks of 5 to 200 tool calls.

The world that `eval` judges agent loops in, that the tiny model of the demo was trained on, and that part of
`compare`'s built-in data comes from. Pure Python and SQLite; it runs no model and knows none.
"""

from .database import Store
from .deep import make_deep_task
from .make import make_task
from .policy import POLICY, SYSTEM_PROMPT
from .tasks import Call, Task, Turn, exchange, transcript
from .tools import TOOLS, Tool, openai_tools

__all__ = [
    "POLICY",
    "SYSTEM_PROMPT",
    "TOOLS",
    "Call",
    "Store",
    "Task",
    "Tool",
    "Turn",
    "exchange",
    "make",
    "make_deep_task",
    "make_task",
    "model",
    "openai_tools",
    "scoring",
    "transcript",
]
