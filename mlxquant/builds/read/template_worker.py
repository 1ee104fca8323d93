"""Renders chat templates of strangers, in a process that has nothing to lose (see `templates`, which starts it).

This file is run by its path and imports nothing of mlxquant. Its arguments are the seconds that a rendering may take,
the bytes of memory beyond what it begins with, and the longest text in characters. Each line on stdin is a request, a
JSON table: `chat_template` (a text, or texts by name), `special_tokens`, `conversation`, `arguments`. Each line on
stdout is an answer: `text`, or `refused` (what the template or jinja said), or `overrun` (which bound it left, after
which the process ends). The first line says that it is ready.

transformers' own method renders, so that it is what that version makes of it, in jinja's sandbox; only the tokenizer is
a stand-in, which has the template and the special tokens. A rendering that takes too long ends the process by SIGALRM,
which the kernel sends and no Python code has to see to.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from typing import Any


def main(seconds: float, room: int, longest: int) -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever prints must not stand between the answers
    stand_in = _stand_in()
    _limit(room)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer = _answer(stand_in, line, longest)
        text = json.dumps(answer)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(text, file=answers, flush=True)
        if "overrun" in answer:
            return


def _answer(stand_in: Any, line: bytes, longest: int) -> dict[str, str]:
    try:
        request = json.loads(line)
        tokenizer = stand_in(request["chat_template"], request["special_tokens"])
        text = tokenizer.apply_chat_template(request["conversation"], tokenize=False, **request["arguments"])
    except MemoryError:
        return {"overrun": "memory"}
    except RecursionError:
        return {"refused": "it calls itself without end"}
    except Exception as error:  # noqa: BLE001 - a template may do anything that its sandbox allows
        return {"refused": (" ".join(str(error)[:2000].split()) or type(error).__name__)[:300]}
    if not isinstance(text, str) or len(text) > longest:
        return {"overrun": "length"}
    return {"text": text}


def _stand_in() -> Any:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    class StandIn(PreTrainedTokenizerBase):  # type: ignore[misc]
        """A tokenizer of which there is only what rendering needs."""

        def __init__(self, chat_template: Any, special_tokens: dict[str, Any]) -> None:
            self.__dict__.update(chat_template=chat_template, tokens_by_name=special_tokens)

        @property
        def special_tokens_map(self) -> dict[str, Any]:
            return dict(self.__dict__["tokens_by_name"])

    return StandIn


def _limit(room: int) -> None:
    """Bound memory, where the system does (macOS does not, so who waits looks too); no files, no cores."""
    import resource

    with suppress(OSError, ValueError):
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - pathlib is not needed otherwise
            pages = int(file.read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room,) * 2)
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        with suppress(OSError, ValueError):
            resource.setrlimit(kind, (0, 0))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
