"""The command line: parse, call, print, exit. Each command is a module here, imported when it is run."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import click

from .. import __version__
from ..errors import MlxquantError
from ..words.interrupts import ask_to_end, asked_to_end, begin
from ..words.secrets import redact
from .printing import echo, redact_all_output, redact_complaint

# A gate that said no, one that could not tell, and what a shell reports of a command that Ctrl-C ended. What else goes
# wrong has a code of its own (`MlxquantError.exit_code`), so that 1 never means anything but a gate's no.
FAILED, OPEN, INTERRUPTED = 1, 4, 130

# command -> one line of help; kept here so that `mlxquant --help` imports none of them
COMMANDS = {
    "recipes": "List the shipped recipes, print one, or write the recipe that a build amounts to.",
    "plan": "Show the precision and bytes of every tensor, from headers or config.json alone.",
    "convert": "Write the MLX build that a recipe asks for.",
    "audit": "Show what every tensor of an MLX build really is, and why.",
    "check-load": "Load a build in mlx-lm and mlx-vlm and say what each makes of it.",
    "verify": "Read a build through: is every byte what was written, and what its source makes?",
    "revalidate": "Say what changed since a build was made or measured, and what no longer holds.",
    "diff": "Show where two recipes, plans or builds differ, and what that costs.",
    "bench": "Measure prefill and decode throughput of builds, or predict it from a plan.",
    "compare": "Judge recipes and builds against full precision in one streamed pass.",
    "tau2": "Compare τ²-bench result files: pass^k, rewards, actions, depth, with intervals.",
    "eval": "Judge builds or servers against a baseline: tool loops at depth, contracts.",
    "validate": "Judge a build by its records and by tolerances that were set before: the gate.",
    "sweep": "Find the smallest recipe inside every tolerance, and where others leave theirs.",
    "report": "Write one HTML page from any mix of records.",
    "upload": "Put a build on the Hub, with a model card made from its records.",
    "demo": "Run the whole chain on the tiny checkpoint that comes along.",
}


class _Lazy(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take --debug wherever it stands: people type it at the end, when a command has failed."""
        before = args[: args.index("--")] if "--" in args else args
        if "--debug" in before:
            args = ["--debug", *(a for a in before if a != "--debug"), *args[len(before) :]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        _never_fail_to_print()
        redact_all_output()
        with _told_to_end():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            redact_complaint(error)
            raise
        except MlxquantError as error:
            if ctx.params.get("debug"):
                raise
            if asked_to_end():  # what a wait ended with that learned of Ctrl-C first
                _tell("stopped")
                sys.exit(INTERRUPTED)
            _tell(redact(str(error)))
            sys.exit(error.exit_code)
        except OSError as error:  # what no check foresaw, such as a name that is too long, or a full disk behind `>`
            if ctx.params.get("debug") or error.errno == errno.EPIPE:  # click ends quietly at a closed pipe
                raise
            where = f"{error.filename}: " if error.filename else ""
            _tell(redact(f"{where}{error.strerror or error}; --debug shows where this came from"))
            sys.exit(MlxquantError.exit_code)
        except KeyboardInterrupt:
            if ctx.params.get("debug"):
                raise
            _tell("stopped")
            sys.exit(INTERRUPTED)


def _tell(text: str) -> None:
    """Print one message on stderr; where nothing can be written to it (a full disk), the exit code alone tells."""
    try:
        echo(f"mlxquant: {text}", err=True)
    except OSError:
        sys.stderr = io.StringIO()  # else the text is tried again at exit, and fails again


def _never_fail_to_print() -> None:
    """Let a terminal that lacks a sign of ours (−, →, or one of a file's name) show "?" instead of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, and every thread's wait with it; a second one ends it on the spot."""
    if threading.current_thread() is not threading.main_thread():  # no thread but this may handle signals
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        if asked_to_end():
            os._exit(INTERRUPTED)
        ask_to_end()
        raise KeyboardInterrupt

    begin()
    ignored = signal.SIG_IGN, None  # by nohup, or by a shell that starts it in the background
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) not in ignored]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if asked_to_end() and isinstance(sys.exception(), SystemExit):
            _leave()


def _leave() -> None:
    """End the process now if a thread is left that Python would wait for, such as one of a library's that waits too."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(INTERRUPTED)


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlxquant")
@click.option("--debug", is_flag=True, help="Show a traceback with every error.")
def main(debug: bool) -> None:
    """Turn a Hugging Face mixture-of-experts checkpoint into an audited MLX build.

    \b
    mlxquant plan    Qwen/Qwen3.5-122B-A10B -r gates-8bit
    mlxquant convert Qwen/Qwen3.5-122B-A10B -r gates-8bit -o build
    mlxquant audit   build

    SOURCE is a folder, a Hub id (org/name[@revision]) or, for plan, a config.json.
    Exit codes: 0 done, 1 a gate said no, 2 usage, 3 error, 4 not settled (too little measured), 130 Ctrl-C.
    """
