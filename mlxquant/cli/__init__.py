"""The command line: parse, call, print, exit. Each command is a module here, imported when it is run."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..errors import UsageError
from ..words.secrets import register_words
from .endings import FAILED as FAILED
from .endings import INTERRUPTED as INTERRUPTED
from .endings import OPEN as OPEN
from .endings import check_address_space, ending, stopped_by_signals
from .printing import redact_all_output
from .streams import set_up_streams

# command -> one line of help; kept here so that `mlxquant --help` imports none of them
COMMANDS = {
    "recipes": "List the shipped recipes, print one, or write the recipe that a build amounts to.",
    "plan": "Show the precision and bytes of every tensor, from headers or config.json alone.",
    "convert": "Write the MLX build that a recipe asks for.",
    "build": "Make and judge the best build of as many bytes, in one resumable run.",
    "clean": "List the unfinished work in a folder, and throw away what is named of it.",
    "audit": "Show how every tensor of an MLX build is stored, and why.",
    "check-load": "Load a build in mlx-lm and mlx-vlm and report whether each does, and runs it.",
    "verify": "Check every byte of a build against its manifest, and against its source.",
    "diff": "Show where two recipes, plans or builds differ, and what that costs.",
    "bench": "Measure prefill and decode throughput of builds, or predict it from a plan.",
    "calibrate": "Measure what enters every module on texts, for methods that weigh errors by it.",
    "allocate": "Choose every module's bits for a budget of bytes, by what they do to the output.",
    "compare": "Judge recipes and builds against full precision in one streamed pass.",
    "results": "Compare result files of lm-eval, inspect_ai, BFCL, EvalPlus, oMLX, τ²-bench, paired.",
    "eval": "Judge builds or servers against a baseline: tool loops at depth, contracts.",
    "validate": "Judge records of a build against tolerances that were set before: the gate.",
    "rollout": "Write a gateway's configuration for a rollout, and read what it logs.",
    "sweep": "Find the smallest recipe inside every tolerance, and where each recipe exceeds one.",
    "report": "Write one HTML page from any mix of records.",
    "upload": "Upload a build to the Hub, with a model card made from its records.",
    "demo": "Run the whole chain on a tiny checkpoint that is part of the package.",
}


# other names of commands, which `--help` does not list
ALIASES = {"tau2": "results"}
# commands that are no more -> what does their work now
RETIRED = {"revalidate": "mlxquant validate --since BUILD [RECORD]..."}


def _retired(command: str) -> click.Command:
    """A command that, whatever follows it, ends with one line that names its successor. `--help` does not list it."""

    @click.command(command, hidden=True, add_help_option=False, context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    def refuse(words: tuple[str, ...]) -> None:
        raise UsageError(f"{command} is no longer a command; use {RETIRED[command]}")

    return refuse


class _Lazy(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in RETIRED:
            return _retired(cmd_name)
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
        command: click.Command = module.command
        command.help = command.help or _docstring(str(module.__file__), "command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take --debug wherever it stands: people type it at the end, when a command has failed."""
        before = _before_operands(args)
        if "--debug" in before:
            args = ["--debug", *(a for a in before if a != "--debug"), *args[len(before) :]]
        return super().parse_args(ctx, args)

    def main(self, args: Any = None, prog_name: Any = None, *, standalone_mode: bool = True, **others: Any) -> Any:  # type: ignore[override]
        """Parse and run; with `standalone_mode` end the process, else return; an error ends it either way."""
        set_up_streams()
        redact_all_output()
        words = list(sys.argv[1:] if args is None else args)
        with stopped_by_signals(), ending(debug="--debug" in _before_operands(words)):
            register_words(words)
            code = super().main(words, prog_name, standalone_mode=False, **others)
            if standalone_mode:
                sys.exit(code if isinstance(code, int) else 0)
        return code

    def invoke(self, ctx: click.Context) -> Any:
        check_address_space()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # click would print an empty line
            raise click.Abort from stop


def _docstring(file: str, function: str) -> str | None:
    """Read a function's docstring, which is its help, from the source: `python -OO` leaves the function none."""
    if sys.flags.optimize < 2:
        return None
    import ast

    with suppress(OSError, ValueError):
        for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == function:
                return ast.get_docstring(node)
    return None


def _before_operands(words: list[str]) -> list[str]:
    """Words up to `--`, among which options are."""
    return words[: words.index("--")] if "--" in words else words


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
    Exit codes: 0 done, 1 a gate failed, 2 usage, 3 error, 4 not settled (too little measured), 130 Ctrl-C.
    """


main.help = main.help or _docstring(__file__, "main")
