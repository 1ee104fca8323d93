"""Blocks of the documentation that show what a command prints: run them, compare, write them anew.

A block is a fence of language `console` whose first line is `$ mlxquant …` (a backslash continues it on the next line);
the rest is the command's standard output at 80 columns. A comment on the line before says what is not the default:

    <!-- shown: in=store exit=1 lines=1-20 -->

    in=WORLD      files that lie in the folder where the command runs (see `WORLDS`); blocks of a page that name the
                  same world share one folder, in order, so that one may use what another wrote
    exit=N        the exit code, if it is not 0
    from=TEXT     begin with the first line that begins so
    lines=A-B     show these lines of the output; "…" stands for what is left out before and after
    errors        show standard error in place of standard output
    figures-vary  hold the words to the output, but not the figures, which depend on the machine
    slow          takes more than a few seconds: only `make slow` runs it, after all that stands before it

A fence of language `python` after such a comment is run too, in the same folder; a `text` fence right after it shows
what it prints. Code of one page and world runs in one namespace, from top to bottom.

`python -m tests.support.pages` (`make docs-refresh`) writes every block anew that has changed. What differs from run to
run by nature (seconds, versions of Python and mlx) does not count as a change. A block whose world is not on this
machine, such as the paper's config, is left alone.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent.parent
SHARED = ROOT.parent / "shared"
PAPER_CONFIG = SHARED / "reference" / "configs" / "Qwen3.5-122B-A10B.json"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "recipes/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

# Every fence is matched, so that one inside another is not taken for a block.
_FENCE = re.compile(
    r"^(?:<!-- shown: (?P<how>[^\n]*?) -->\n)?(?P<fence>```+)(?P<language>\w*)\n(?P<body>.*?)^(?P=fence)$", re.M | re.S
)
_PRINTED = re.compile(r"\n\n```text\n(?P<output>.*?)^```$", re.M | re.S)
_CUT = "…"
# A run's own: times, versions of what happens to be installed, memory of a process, dates.
_VARYING = (
    (re.compile(r"\b\d[\d,]*(\.\d+)? s\b"), "# s"),
    (re.compile(r"\b(mlx|mlx-lm|mlx-vlm|Python|transformers|numpy) \d+(\.\d+)+"), r"\1 #"),
    (re.compile(r"[\d.]+ [KMG]iB( in (mlx|the process))"), r"#\1"),
    (re.compile(r"\d{4}-\d\d-\d\d(T[\d:]+Z)?"), "#"),
)


class NotHere(Exception):
    """What a world needs is not on this machine."""


@dataclass(frozen=True)
class Block:
    """One block as a page has it: a command line, or Python code, and what it prints. It ends at `end` of the page."""

    command: str
    output: str
    python: bool
    end: int
    world: str = "empty"
    exit_code: int = 0
    beginning: str | None = None
    lines: tuple[int, int] | None = None
    errors: bool = False
    figures_vary: bool = False
    slow: bool = False

    def differs(self, output: str) -> bool:
        """Say whether `output` is more than another run of the same."""
        return self._comparable(self.output) != self._comparable(output)

    def _comparable(self, text: str) -> str:
        for pattern, word in _VARYING:
            text = pattern.sub(word, text)
        if self.figures_vary:  # and with them the widths of columns, and where there is an interval at all
            text = re.sub(r"[ ─-]+", " ", re.sub(r"[+−-]?\d[\d.,]*", "#", text))
            text = re.sub(r"# … (#|beyond)|none from # \w+", "#", text)
        return text


def blocks(text: str) -> Iterator[tuple[re.Match[str], Block]]:
    """Yield the blocks of a page, each with its place. Raises ValueError where one is malformed."""
    for match in _FENCE.finditer(text):
        if match["language"] == "console":
            command, output = _split(match["body"])
            yield match, Block(command, output, python=False, end=match.end(), **_options(match["how"] or ""))
        elif match["language"] == "python" and match["how"]:
            after = _PRINTED.match(text, match.end())
            output, end = (after["output"].rstrip("\n"), after.end()) if after else ("", match.end())
            yield match, Block(match["body"], output, python=True, end=end, **_options(match["how"]))


def _split(body: str) -> tuple[str, str]:
    """Part the command, with its continuation lines, from its output."""
    lines = body.splitlines()
    if not lines or not lines[0].startswith("$ mlxquant"):
        raise ValueError(f"a console block begins with `$ mlxquant …`, not with {body[:40]!r}; use `sh` or `text`")
    end = next(i for i, line in enumerate(lines) if not line.endswith("\\")) + 1
    return "\n".join(lines[:end]), "\n".join(lines[end:])


def _options(how: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for word in shlex.split(how):
        key, _, value = word.partition("=")
        if key == "in" and value in WORLDS:
            options["world"] = value
        elif key == "exit":
            options["exit_code"] = int(value)
        elif key == "from":
            options["beginning"] = value
        elif key == "lines":
            first, _, last = value.partition("-")
            options["lines"] = (int(first), int(last))
        elif word in ("errors", "figures-vary", "slow"):
            options[word.replace("-", "_")] = True
        else:
            raise ValueError(f"<!-- shown: {how} -->: {word!r} is not known")
    return options


# --- the folders that commands run in ---


def _paper(folder: Path) -> None:
    """The config of the paper's model, which is not ours."""
    if not PAPER_CONFIG.is_file():
        raise NotHere("the paper's config, ../shared/reference")
    shutil.copy(PAPER_CONFIG, folder / PAPER_CONFIG.name)


def _store(folder: Path) -> None:
    """The checkpoint that the demo runs on."""
    from mlxquant.evals.store.model import write_store_moe

    write_store_moe(folder / "store-moe")


def _builds(folder: Path) -> None:
    """The checkpoint that the demo runs on, and the demo's two builds."""
    _store(folder)
    with contextlib.chdir(folder):
        for recipe in ("gates-8bit", "deepseek-8bit"):
            _run(f"convert store-moe -r {recipe} --group-size 64 -o build-{recipe}")


def _played(folder: Path) -> None:
    """The checkpoint that the demo runs on, as a build in float32 and as one of 2 bits throughout."""
    _store(folder)
    with contextlib.chdir(folder):
        _run("convert store-moe -r none --dtype float32 -o f32")
        _run("convert store-moe -r uniform-8bit --bits 2 --group-size 64 -o q2")


def _study(folder: Path) -> None:
    """The records of the store study."""
    for path in (ROOT / "audits" / "store-moe").iterdir():
        shutil.copy(path, folder / path.name)


def _speeds(folder: Path) -> None:
    """The record of a throughput measurement."""
    shutil.copy(ROOT / "benchmarks" / "results" / "bench-tiny.json", folder / "bench.json")


def _tau2(folder: Path) -> None:
    """Two made-up result files of τ²-bench: twelve tasks, two trials each; the second run loses some."""
    from tests.results.tau2.tau2_files import results, simulation

    for name, lost in (("base", (5, 11)), ("agentic", (2, 5, 8, 11))):
        simulations = [
            simulation(f"task-{task}", trial, 0.0 if task in lost and trial else 1.0, reads=(2, 2), writes=(1, 1))
            for task in range(12)
            for trial in range(2)
        ]
        (folder / f"{name}.json").write_text(json.dumps(results(simulations, num_trials=2)), encoding="utf-8")


def _traffic(folder: Path) -> None:
    """Payloads that LiteLLM's proxy logged in `tests.rollout.test_gateway`."""
    shutil.copy(ROOT / "tests" / "rollout" / "litellm-1.108.7.ndjson.gz", folder / "traffic.ndjson.gz")


def _harness(folder: Path) -> None:
    """Two made-up runs of lm-evaluation-harness, two tasks each, of which the second loses some."""
    from tests.results.harness_files import DATE, lm_samples

    for name, wrong in (("base", (3, 9, 12)), ("4bit", (3, 5, 7, 9, 12, 17))):
        lm_samples(folder / name / f"samples_gsm8k_{DATE}.jsonl", wrong, n=40)
        lm_samples(folder / name / f"samples_arc_easy_{DATE}.jsonl", wrong[:2], n=25, metric="acc")


WORLDS: dict[str, Callable[[Path], None]] = {
    "empty": lambda folder: None,
    "paper": _paper,
    "store": _store,
    "builds": _builds,
    "played": _played,
    "study": _study,
    "speeds": _speeds,
    "tau2": _tau2,
    "traffic": _traffic,
    "harness": _harness,
}


class Worlds:
    """Folders of worlds, each made once; every page works in copies of its own."""

    def __init__(self, folder: Path) -> None:
        """Keep everything below `folder`."""
        self._folder = folder
        self._pages = 0

    def page(self) -> Callable[[str], Path]:
        """Give the function from a world's name to this page's folder of it."""
        self._pages += 1
        mine = self._folder / f"page-{self._pages}"

        def place(world: str) -> Path:
            if not (mine / world).exists():
                shutil.copytree(self._original(world), mine / world)
            return mine / world

        return place

    def _original(self, world: str) -> Path:
        original = self._folder / "worlds" / world
        if not original.exists():
            unfinished = original.with_name(f"{world}.unfinished")
            unfinished.mkdir(parents=True)
            try:
                WORLDS[world](unfinished)
            except NotHere:
                unfinished.rmdir()
                raise
            unfinished.rename(original)
        return original


# --- running ---


def _caught(act: Callable[[], None]) -> tuple[str, str, int]:
    """Run something as a terminal of 80 columns would show it; give stdout, stderr and exit code."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "80"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            act()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
    return out.getvalue(), err.getvalue(), code


def _run(words: str) -> tuple[str, str, int]:
    """Run a command of ours in this process."""
    from mlxquant.cli import main

    return _caught(lambda: main.main(shlex.split(words), prog_name="mlxquant"))


def printed(block: Block, folder: Path, names: dict[str, Any]) -> tuple[str, int]:
    """Run a block in `folder` and give what it has to show, and the exit code. Python code shares `names`."""
    words = block.command.removeprefix("$ mlxquant").replace("\\\n", " ")
    with contextlib.chdir(folder):
        if block.python:
            out, err, code = _caught(lambda: exec(compile(block.command, "<page>", "exec"), names))
        else:
            out, err, code = _run(words)
    text = (err if block.errors else out).rstrip("\n")
    if not text and not block.python:
        raise AssertionError(f"{block.command}: nothing printed, exit code {code}; the other stream has\n{out}{err}")
    return _cut(text.split("\n"), block), code


def _cut(lines: list[str], block: Block) -> str:
    """Give the lines that a block asks for, with a sign where some are left out."""
    start = 0
    if block.beginning is not None:
        start = next((i for i, line in enumerate(lines) if line.startswith(block.beginning)), -1)
        if start < 0:
            raise AssertionError(f"{block.command}: no line of the output begins with {block.beginning!r}")
    first, last = block.lines or (1, len(lines))
    first, last = start + first - 1, start + last
    return "\n".join([_CUT] * (first > 0) + lines[first:last] + [_CUT] * (last < len(lines)))


def refreshed(text: str, place: Callable[[str], Path], *, slow: bool) -> tuple[str, list[str]]:
    """Give the page's text with every changed block written anew, and what its skipped blocks lack.

    Blocks that are marked slow are run only where `slow` says so.
    """
    missing: list[str] = []
    parts, end = [], 0
    names: dict[str, dict[str, Any]] = {}
    for match, block in blocks(text):
        if block.slow and not slow:
            continue
        try:
            folder = place(block.world)
        except NotHere as reason:
            missing.append(str(reason))
            continue
        output, code = printed(block, folder, names.setdefault(block.world, {"__name__": "page"}))
        if block.differs(output) or code != block.exit_code:
            parts += [text[end : match.start()], _comment(match["how"] or "", code), _written(block, output)]
            end = block.end
    return "".join([*parts, text[end:]]), missing


def _written(block: Block, output: str) -> str:
    """Give a block with other output."""
    if block.python:
        return f"```python\n{block.command}```" + (f"\n\n```text\n{output}\n```" if output else "")
    fence = "```"
    while fence in output:  # a fence of more backticks than any inside it
        fence += "`"
    return f"{fence}console\n{block.command}\n{output}\n{fence}"


def _comment(how: str, code: int) -> str:
    """Give the comment before a block, with the exit code that the command has now."""
    others = re.sub(r"\bexit=\d+\b", "", how).strip()
    words = f"{others} exit={code}".strip() if code else others
    return f"<!-- shown: {words} -->\n" if words else ""


def difference(before: str, after: str) -> str:
    """Give what changed, line by line."""
    return "\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), "page", "command", lineterm="", n=1))


def main() -> None:
    """Write every block anew that has changed; with --slow, the slow ones too."""
    with tempfile.TemporaryDirectory() as temporary:
        worlds = Worlds(Path(temporary))
        for page in PAGES:
            text = before = page.read_text(encoding="utf-8")
            text, missing = refreshed(text, worlds.page(), slow="--slow" in sys.argv)
            for reason in missing:
                print(f"{page.relative_to(ROOT)}: a block is left as it was, since this is missing: {reason}")
            if text != before:
                page.write_text(text, encoding="utf-8")
                print(f"{page.relative_to(ROOT)}: written")


if __name__ == "__main__":
    main()
