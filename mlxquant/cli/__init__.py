"""The command line: parse, call, print, exit. Each command is a module here, imported when it is run."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
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
_PACKAGE = Path(__file__).parent.parent

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
        """Run a command; whatever it raises becomes one line, after its traceback with --debug, and an exit code."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            redact_complaint(error)
            if error.exit_code != FAILED:
                raise
            error.show()
            sys.exit(MlxquantError.exit_code)
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            _show_trace(ctx)
            _tell("stopped")
            sys.exit(INTERRUPTED)
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # click ends quietly at a closed pipe
            _show_trace(ctx)
            if isinstance(error, MlxquantError) and asked_to_end():  # a wait that learned of Ctrl-C first
                _tell("stopped")
                sys.exit(INTERRUPTED)
            _tell(redact(_said(error)))
            sys.exit(error.exit_code if isinstance(error, MlxquantError) else MlxquantError.exit_code)


def _show_trace(ctx: click.Context) -> None:
    """With --debug, show where an exception came from; the exit code is the same with and without."""
    if ctx.params.get("debug"):
        click.echo(redact(traceback.format_exc()), err=True, nl=False)


def _said(error: Exception) -> str:
    """The line for an exception. What no check foresaw may be the disk's (a name that is too long) or a bug of ours."""
    if isinstance(error, MlxquantError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; --debug shows where this came from"
    return _bug(error)


def _bug(error: Exception) -> str:
    """One line for an exception that should not have been: what, and where in this package."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _PACKAGE in Path(frame.filename).parents] or frames
    at = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    text = " ".join(str(error).split())[:200]
    return f"a bug: {type(error).__name__}: {text} ({at}); run it again with --debug and report what that shows"


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
