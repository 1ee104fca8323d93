"""Whether a build loads where it will be used: in mlx-lm, and in mlx-vlm, through which LM Studio takes vision models.

Each library is tried in a process of its own, one after another, so that a crash or the memory of one does not take
the other along; `load_probe` is what runs there. Another environment's interpreter can be named, to try versions
that are not installed here. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import BuildError, SourceError, UsageError
from ..records.head import head
from ..source.checkpoint import read_config, refuse_unloadable
from ..source.links import own_files
from ..source.remote_code import named_code, plain_folder, tokenizer_code
from ..source.tokenizer import NO_TOKENIZER, has_tokenizer
from ..words.progress import Progress, Watch, unwatched

SCHEMA = "mlxquant.check_load/1"
LIBRARIES = ("mlx-lm", "mlx-vlm")
TOKENS = 8

# What an interpreter takes from its surroundings and another one must not.
_OWN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def check_load(
    build: Path, *, python: Path | None = None, tokens: int = TOKENS, watch: Watch = unwatched
) -> dict[str, Any]:
    """Load a build in every library that an environment has (this one's, unless `python` is another's).

    Gives the record; progress is in libraries. Raises BuildError for a folder that is no build, UsageError for a
    `python` that is none.
    """
    if not (build / "config.json").is_file():
        raise BuildError(
            f"{build}: a build's folder expected, no config.json found; is it the folder that convert made?"
        )
    if python is not None and not os.access(python, os.X_OK):
        raise UsageError(f"--python {python}: an interpreter expected, such as /path/to/venv/bin/python")
    try:
        refuse_unloadable(build)
        config = read_config(build / "config.json", None)
    except SourceError as error:
        raise BuildError(str(error)) from None
    return {
        **head(SCHEMA),
        "build": build.absolute().name,
        "vision": bool(config.get("vision_config")),
        "libraries": list(_answers(build, python, tokens, watch)),
    }


def loads(record: dict[str, Any]) -> bool:
    """Whether every library that is installed and has the model loads the build, and one does."""
    installed = [a for a in record["libraries"] if a["installed"] and not a.get("unsupported")]
    return bool(installed) and all(answer["loaded"] for answer in installed)


def _answers(build: Path, python: Path | None, tokens: int, watch: Watch) -> Iterator[dict[str, Any]]:
    for number, library in enumerate(LIBRARIES):
        watch(Progress(number, len(LIBRARIES), f"loading in {library}"))
        yield _probe(library, build, python, tokens)


def _probe(library: str, build: Path, python: Path | None, tokens: int) -> dict[str, Any]:
    """Try a library, and see to it that it finds no code of the build to run or to ask about."""
    if not has_tokenizer(own_files(build)) and not tokenizer_code(build):
        answer = _run(library, build, python, 0, build)
        return (
            {**answer, "text": {"error": f"not tried: the build {NO_TOKENIZER} there"}} if answer["loaded"] else answer
        )
    code = named_code(build)
    if not code:
        return _run(library, build, python, tokens, build)
    if library != "mlx-lm":  # it may trust what the files name, and cannot be told to read them without
        named = "; ".join(f"{file}: {names}" for file, names in code.items())
        return _run(library, build, python, 0, build, f"not tried: it may run code that the build names ({named})")
    with tempfile.TemporaryDirectory(prefix="mlxquant-") as plain:
        try:
            plain_folder(build, Path(plain), build.name)
        except SourceError as error:
            answer = _run(library, build, python, 0, build)
            return {**answer, "text": {"error": str(error)}} if answer["loaded"] else answer
        return _run(library, build, python, tokens, Path(plain))


def _run(
    library: str, build: Path, python: Path | None, tokens: int, tokenizer: Path, refusal: str = ""
) -> dict[str, Any]:
    """Run `load_probe` in a process of its own and read its answer; `refusal` says why it must not load the build."""
    text = Path(__file__).with_name("load_probe.py").read_text(encoding="utf-8")
    env = {k: v for k, v in os.environ.items() if python is None or k not in _OWN}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer.json"
        # as text, in an empty folder: this package's modules must not stand in the way of the library's own
        arguments = (library, build.absolute(), path, tokens, tokenizer.absolute(), refusal)
        command = [str(python or sys.executable), "-c", text, *map(str, arguments)]
        try:
            run = subprocess.run(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
            )
        except OSError as error:
            raise UsageError(f"--python {python}: cannot be run ({error.strerror})") from None
        if path.is_file():
            answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return answer
    return {"library": library, "python": "?", "installed": True, "loaded": False, "error": _death(run)}


def _death(run: subprocess.CompletedProcess[str]) -> str:
    """Say how a probe ended that gave no answer."""
    if run.returncode < 0:
        name = signal.Signals(-run.returncode).name
        return f"its process was killed by {name}" + ("; was memory short?" if name == "SIGKILL" else "")
    return f"its process ended with {run.returncode}: {run.stderr.strip()[-500:]}"
