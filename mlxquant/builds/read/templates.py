"""Chat templates of checkpoints and builds, rendered within bounds of time, memory and length.

A chat template is a program. jinja's sandbox, which transformers uses, keeps it from files and attributes, but not from
looping for ever, from `"a" * 10 ** 10`, or from writing gigabytes, and code in this process cannot end what hangs in C.
So templates are rendered by a process beside this one, `template_worker`, which is started when the first is wanted and
serves all that follow, at the cost of a line through a pipe. It is a fresh interpreter and no fork, since mlx and
tokenizers have threads. It gets no key: its environment is made here. A rendering that leaves a bound ends the process,
and the next one gets a new one; the third such rendering with a tokenizer ends the command.

What a template says no to, such as a system message, is `TemplateFailure` too: that of a document or an item. Templates
that mlx-lm or transformers have as Python code of their own are rendered by them, here.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from ...disk.programs import ProgramError, run_program
from ...errors import MlxquantError, SourceError
from ...words.units import show_bytes

SECONDS = 10.0
ROOM = 2 << 30  # bytes beyond what the process begins with
LONGEST = 16 << 20  # characters; a context of a million tokens has four million or so
OVERRUNS = 3  # so many end the command

_STARTING_S = 120.0  # for imports on a slow disk
_LOOK_S = 0.5  # how often a long rendering is looked at
_WORKER = Path(__file__).with_name("template_worker.py")
# What an interpreter may need to find its libraries, and what a template may show of the surroundings: the time.
_PASSED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "HOME", "TMPDIR", "TZ", "SYSTEMROOT")


class TemplateFailure(MlxquantError):
    """A chat template that does not render a conversation, and why. `overrun`: it left its bounds."""

    def __init__(self, name: str, reason: str, *, overrun: bool = False) -> None:
        super().__init__(f"{name}: its chat template {reason}")
        self.reason, self.overrun = reason, overrun


class BoundedTemplate:
    """Stands in for a tokenizer's `apply_chat_template`; a tokenizer of transformers', whose template is jinja's."""

    def __init__(self, tokenizer: Any, renderer: Renderer) -> None:
        self._tokenizer, self._renderer = tokenizer, renderer

    def __call__(self, conversation: Any, *, tokenize: bool = True, return_dict: bool = True, **arguments: Any) -> Any:
        """Render as transformers does; tokens unless `tokenize` is False. Raises TemplateFailure, SourceError."""
        text = self._renderer.render(
            {
                "chat_template": self._tokenizer.chat_template,
                "special_tokens": dict(self._tokenizer.special_tokens_map),
                "conversation": conversation,
                "arguments": arguments,
            }
        )
        if not tokenize:
            return text
        encoded = self._tokenizer(text, add_special_tokens=False)
        return encoded if return_dict else encoded["input_ids"]


def bound_template(tokenizer: Any, name: str) -> None:
    """Let a tokenizer, as mlx-lm wraps it, render its chat template within bounds, whoever asks it to."""
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    inner = getattr(tokenizer, "_tokenizer", tokenizer)
    if getattr(type(inner), "apply_chat_template", None) is PreTrainedTokenizerBase.apply_chat_template:
        inner.__dict__["apply_chat_template"] = BoundedTemplate(inner, Renderer(name, SECONDS, ROOM))


class Renderer:
    """The process that renders: started when it is needed, and again after it has been ended. From any thread."""

    def __init__(self, name: str, seconds: float, room: int) -> None:
        self._name, self._seconds, self._room = name, seconds, room
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._overruns = 0

    def render(self, request: Mapping[str, Any]) -> str:
        """Render one conversation. Raises TemplateFailure; SourceError where it overran its bounds time and again."""
        line = json.dumps(request, default=str).encode("ascii") + b"\n"
        with self._lock:
            process = self._running()
            try:
                answer = self._asked(process, line)
            except BaseException:  # Ctrl-C among them: nothing goes on rendering
                self._end()
                raise
            if "text" in answer:
                return str(answer["text"])
            if "refused" in answer:
                raise TemplateFailure(self._name, f"fails ({answer['refused']})")
            self._end()
            self._overruns += 1
        failure = TemplateFailure(self._name, self._bound(str(answer.get("overrun"))), overrun=True)
        if self._overruns >= OVERRUNS:
            raise SourceError(f"{failure}, as {self._overruns - 1} times before; nothing more is rendered with it")
        raise failure

    def _bound(self, kind: str) -> str:
        """Which bound was left, in words."""
        known = {
            "time": f"renders for more than {self._seconds:g} s",
            "memory": f"takes more than {show_bytes(self._room)} of memory to render",
            "length": f"writes more than {LONGEST:,} characters",
        }
        return known.get(kind, f"ended the process that renders it ({kind})")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        folders = [os.path.abspath(folder) for folder in sys.path if folder]  # noqa: PTH100 - texts in, texts out
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(folders), "PATH": os.defpath, "HF_HUB_OFFLINE": "1"}
        # -P: what lies beside the worker is no module of its
        command = [sys.executable, "-P", str(_WORKER), str(self._seconds), str(self._room), str(LONGEST)]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                cwd="/", env=environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise SourceError(f"{self._name}: no process for its chat template ({error.strerror})") from error
        self._process = process
        weakref.finalize(self, _end, process)
        if "ready" not in self._line(process, _STARTING_S, watched=False):
            self._end()
            raise SourceError(
                f"{self._name}: the process that renders its chat template did not start; is memory short?"
            )
        return process

    def _asked(self, process: subprocess.Popen[bytes], line: bytes) -> dict[str, Any]:
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            return {"overrun": _death(process)}
        return self._line(process, self._seconds + 5)  # it ends itself; five seconds for a machine that is busy

    def _line(self, process: subprocess.Popen[bytes], seconds: float, *, watched: bool = True) -> dict[str, Any]:
        """Read one answer, or what the process broke off at; its memory is looked at, where `watched`."""
        assert process.stdout is not None
        pipe, deadline, text = process.stdout.fileno(), monotonic() + seconds, bytearray()
        while not text.endswith(b"\n"):
            if monotonic() > deadline:
                return {"overrun": "time"}
            if not select.select([pipe], [], [], _LOOK_S)[0]:
                if watched and _resident(process.pid) > 2 * self._room:
                    return {"overrun": "memory"}
                continue
            if not (part := os.read(pipe, 1 << 20)):
                return {"overrun": _death(process)}
            text += part
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _end(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _death(process: subprocess.Popen[bytes]) -> str:
    """Why a process is gone: the bound that it left, or its signal."""
    code = process.wait()
    if code == -signal.SIGALRM:
        return "time"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"


def _resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 where it cannot be told."""
    try:
        return 1024 * int(run_program("ps", "-o", "rss=", "-p", str(pid)).strip() or 0)
    except (ProgramError, ValueError):
        return 0
