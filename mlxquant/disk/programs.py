"""Other programs that mlxquant asks for a fact: git, sysctl, pmset.

A program is looked up in the folders of PATH that are absolute, so never in the folder at hand, and it gets an
environment that is made here: a variable that a folder's own settings have set (GIT_*, LD_*, PYTHON*) does not reach
it. It gets no input, and it is ended after its time. The interpreters of `check_load` and of the template worker are
named by path and are started there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_FALLBACK = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
# macOS: /usr/bin/git is a stub that looks up the developer tools with these.
_PASSED = ("DEVELOPER_DIR", "TMPDIR")


class ProgramError(Exception):
    """A program is not installed, failed or took too long. Callers turn it into what they cannot tell."""


def run_program(
    *command: str, variables: Mapping[str, str] | None = None, folder: str | Path = "/", seconds: float = 10
) -> str:
    """Run a program and return what it printed. Raises ProgramError.

    `variables` are added to an environment of PATH and a plain locale.
    """
    path = os.pathsep.join(program_folders())
    program = shutil.which(command[0], path=path)
    if program is None:
        raise ProgramError(f"{command[0]} is not installed")
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    environment = {**passed, "PATH": path, "LC_ALL": "C", **(variables or {})}
    try:
        done = subprocess.run(
            [program, *command[1:]],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=seconds,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        why = "took too long" if isinstance(error, subprocess.TimeoutExpired) else f"cannot be run ({error.strerror})"
        raise ProgramError(f"{command[0]} {why}") from error
    if done.returncode != 0:
        complaint = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise ProgramError(f"{command[0]} failed ({complaint[:200] or f'exit {done.returncode}'})")
    return done.stdout.decode(errors="replace")


def program_folders(path: str | None = None) -> Sequence[str]:
    """Folders of PATH that are absolute; "." and an empty entry mean the folder at hand and are left out."""
    folders = os.environ.get("PATH", "") if path is None else path
    return [entry for entry in folders.split(os.pathsep) if Path(entry).is_absolute()] or _FALLBACK.split(":")
