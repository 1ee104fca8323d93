"""Every end of a command has its exit code and, where something went wrong, one line; whatever its streams are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import mlxquant.cli
from mlxquant.cli import COMMANDS, main
from mlxquant.errors import UsageError

CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all three": "<&- >&- 2>&-"}


def shell(root: Path, words: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `mlxquant` is this checkout's."""
    program = f"{sys.executable} {' '.join(options)} -m mlxquant"
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    return subprocess.run(
        ["bash", "-c", f"mlxquant() {{ {program} \"$@\"; }}; {words}"],
        capture_output=True, env=environment, text=True, errors="surrogateescape", timeout=60,
    )  # fmt: skip


# --- what is raised ---


@pytest.mark.parametrize(
    "error, code, line",
    [
        (
            ZeroDivisionError("division\nby zero"),
            3,
            "internal error: ZeroDivisionError: division by zero (__init__",
        ),
        (RecursionError("maximum recursion depth exceeded"), 3, "internal error: RecursionError"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "no"), 3, "internal error: UnicodeEncodeError"),
        (MemoryError("Unable to allocate 7 GiB"), 3, "not enough memory (Unable to allocate 7 GiB)"),
        (RuntimeError("[malloc] Unable to allocate 99 bytes."), 3, "not enough memory ([malloc]"),
        (ImportError("libz.so: cannot map"), 3, "a part of the installation cannot be loaded (libz.so"),
        (OSError(24, "Too many open files", "x"), 3, "x: Too many open files"),
        (UsageError("no such metric"), 2, "no such metric"),
        (click.Abort(), 130, "stopped"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_whatever_a_command_raises_is_a_line_and_an_exit_code_that_debug_does_not_change(
    monkeypatch, error, code, line, debug
):
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(mlxquant.cli._Lazy, "get_command", lambda *_: command)
    done = CliRunner().invoke(main, ["plan", *(["--debug"] if debug else [])])
    assert done.exit_code == code
    lines = done.stderr.splitlines()
    assert lines[-1].startswith(f"mlxquant: {line}")
    assert ("Traceback" in done.stderr) is debug and (debug or len(lines) == 1)


def test_a_command_that_click_refuses_ends_with_2_whatever_kind_it_is(monkeypatch):
    @click.command()
    def command() -> None:
        raise click.ClickException("no")

    monkeypatch.setattr(mlxquant.cli._Lazy, "get_command", lambda *_: command)
    assert CliRunner().invoke(main, ["plan"]).exit_code == 2


# --- its streams ---


@pytest.mark.parametrize("redirection", CLOSED.values(), ids=list(CLOSED))
def test_a_closed_stream_changes_no_exit_code(root, redirection):
    done = shell(root, f"mlxquant recipes {redirection} && ! mlxquant plan ./nowhere -r none {redirection}")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_no_file_takes_the_number_of_a_closed_stream(root, tmp_path):
    script = (
        "import os, mlxquant.cli as c; c.main(['--version'], standalone_mode=False); os._exit(open('f', 'w').fileno())"
    )
    (tmp_path / "x.py").write_text(script)
    for redirection in ("2>&-", "<&- >&- 2>&-"):
        assert shell(root, f"cd {tmp_path}; {sys.executable} x.py {redirection}").returncode > 2


@pytest.mark.parametrize("words, code", [("recipes", 0), ("nonsense", 2)])
def test_a_reader_that_has_gone_changes_no_exit_code(root, words, code):
    done = shell(root, f"mlxquant {words} | true; exit ${{PIPESTATUS[0]}}")
    assert done.returncode == code
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_behind_stdout_is_one_line_and_behind_stderr_none(root):
    done = shell(root, "mlxquant recipes > /dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert done.stderr.startswith("mlxquant: stdout: No space left on device")
    assert shell(root, "mlxquant recipes 2> /dev/full").returncode == 0
    assert shell(root, "mlxquant plan ./nowhere -r none > /dev/full 2>&1").returncode == 3


@pytest.mark.slow
def test_a_stream_that_does_not_block_gets_everything(root, tmp_path):
    script = (
        "import os, mlxquant.cli; os.set_blocking(1, False); mlxquant.cli.main(['recipes'], standalone_mode=False);"
        "print('x' * 300_000)"
    )
    (tmp_path / "x.py").write_text(script)
    done = shell(root, f"{sys.executable} {tmp_path}/x.py | (sleep 1; wc -c)")
    assert int(done.stdout) > 300_000, done.stderr


# --- its locale and interpreter ---


@pytest.mark.parametrize("words", ["plan --help", "plan $'./no\\xffwhere\\xe9' -r none"])
def test_a_locale_without_signs_of_ours_is_no_traceback(root, words):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(root, f"mlxquant {words}", **plain)
    assert done.returncode == (3 if "nowhere" in words or "xff" in words else 0)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["", "plan"])
def test_help_is_the_same_where_python_drops_docstrings(root, command):
    assert shell(root, f"mlxquant {command} --help", "-OO").stdout == shell(root, f"mlxquant {command} --help").stdout


def test_a_terminal_of_twenty_columns_that_can_do_nothing_gets_help(root):
    for command in ("", "sweep"):
        assert shell(root, f"mlxquant {command} --help", COLUMNS="20", TERM="dumb").returncode == 0


# --- signals ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_sigterm_ends_a_command_as_ctrl_c_does(root, number):
    script = (
        "import click, time, mlxquant.cli as c\n"
        "command = click.Command('x', callback=lambda: (print(1, flush=True), time.sleep(60)))\n"
        "c._Lazy.get_command = lambda *_: command\n"
        "c.main(['x'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "1\n"
    began = time.monotonic()
    process.send_signal(number)
    _, complaint = process.communicate(timeout=20)
    assert (process.returncode, complaint) == (130, "mlxquant: stopped\n")
    assert time.monotonic() - began < 10


def test_every_command_has_help():
    for name in COMMANDS:
        done = CliRunner().invoke(main, [name, "--help"])
        assert done.exit_code == 0 and name in done.output


# --- limits ---


@pytest.mark.parametrize("limits", ["-n 20", "-v 120000", "-v 250000", "-v 500000"])
def test_small_limits_of_the_process_are_a_line_or_no_matter(root, tiny, limits):
    done = shell(root, f"ulimit {limits}; mlxquant plan {tiny('qwen3_moe')} -r none")
    assert done.returncode in (0, 3)
    assert done.returncode == 0 or (done.stderr.startswith("mlxquant: ") and "internal error" not in done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_mlx_lm_can_be_imported_where_few_files_may_be_open(root):
    script = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, 64)); from mlxquant.layout.mlx_lm import mlx_lm_utils;"
        "mlx_lm_utils(); assert r.getrlimit(r.RLIMIT_NOFILE) == (64, 64)"
    )
    done = shell(root, f'{sys.executable} -c "{script}"')
    assert done.returncode == 0, done.stderr
