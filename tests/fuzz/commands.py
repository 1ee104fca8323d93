"""Every command over damaged inputs: sound ones are made once, one file of them is damaged, and a command is run.

``python -m tests.fuzz.commands --cases 5000 --seed 7`` tries random cases; ``--only plan`` those whose name begins so.
A case's name (``convert/source/config.json:changed#12``) makes the same damage again: ``--case NAME``.

What must hold is in `Fuzz.check`: an exit code that means something, a complaint without a traceback or an internal
error, inputs as they were, and nothing left outside the named output. A command runs in this process, for speed; what
would end the process (a crash of a library) ends the run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import xxhash
from click.testing import CliRunner, Result

from mlxquant.cli import COMMANDS, main
from tests.checkpoints import write_tiny
from tests.fuzz.mutate import flipped, json_changed, mutated

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120  # seconds of one command: what takes longer hangs, also on a machine that is busy
TEXTS = "".join(json.dumps({"text": f"A short document number {i} about nothing."}) + "\n" for i in range(4))
MANY = "".join(json.dumps({"text": f"Document {i} of many."}) + "\n" for i in range(12))
TALK = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n"
SUITE = json.dumps({"id": "a", "messages": [{"role": "user", "content": "hi"}], "score": {"kind": "complete"}}) + "\n"
SPAN = '{"name": "chat m", "attributes": {"gen_ai.operation.name": "chat", "model_variant": "m", "suite": "s"}}\n'
TOLERANCES = """
[[tolerance]]
metric = "kl_nats"
max = 0.02
[[tolerance]]
metric = "pass"
min_difference = -0.02
"""
RECIPE = """
name = "mine"
summary = "s"
reference = "r"
[quantize]
bits = 8
group_size = 32
[[rules]]
match = { role = "router" }
keep = true
reason = "gates"
[[rules]]
match = { path = "*.v_proj" }
bits = 6
reason = "values"
"""
SETTINGS = {
    "prompts": [64], "generate": [16], "depths": [0], "repetitions": 5, "batch": 1, "prefill_step_size": 2048,
    "delay_s": 0.0, "warmups": 1, "seed": 0, "prompt": "text", "resident": True,
    "text": {"kind": "text", "sha256": "0"},
}  # fmt: skip
R = "-r gates-8bit --group-size 32 --unaligned keep"


@dataclass(frozen=True)
class Scenario:
    """A command's words, with {out} for a new name, and the inputs that it reads, one of which is damaged.

    An input is a path below the inputs' folder. `dear` ones take a second or more; `code` is that of sound inputs.
    """

    words: str
    inputs: tuple[str, ...]
    dear: bool = False
    code: int = 0

    @property
    def name(self) -> str:
        """The command, and its first input."""
        return f"{self.words.split()[0]}/{self.inputs[0].split('/')[0]}"


SOURCE = (
    "source/config.json", "source/model.safetensors.index.json", "source/model-00001-of-00003.safetensors",
    "source/model-00003-of-00003.safetensors", "source/tokenizer.json", "source/tokenizer_config.json",
    "source/generation_config.json", "source",
)  # fmt: skip
BUILD = (
    "build/config.json", "build/mlxquant.json", "build/audit.json", "build/model.safetensors",
    "build/tokenizer_config.json", "build/tokenizer.json", "build/AUDIT.md", "build",
)  # fmt: skip
LOADED = ("build/config.json", "build/model.safetensors", "build/tokenizer_config.json", "build/tokenizer.json",
          "build/chat_template.jinja", "build/mlxquant.json", "build")  # fmt: skip
RECORDS = ("compare.json", "plan.json", "eval.json", "bench.json", "tau2.json", "sweep.json", "verdict.json",
           "diff.json",
           "fits.json", "predict.json", "verify.json", "since.json", "other.json")  # fmt: skip
JUDGED = RECORDS[:5]
SCENARIOS = [
    Scenario("recipes {in}/r.toml", ("r.toml",)),
    Scenario("recipes --from {in}/build -o {out}", BUILD),
    Scenario(f"plan {{in}}/source {R}", SOURCE),
    Scenario(f"plan {{in}}/source/config.json {R} --json", ("source/config.json",)),
    Scenario("plan {in}/source -r {in}/r.toml", ("r.toml",)),
    Scenario("plan {in}/source --fits 1GB", SOURCE),
    Scenario(f"convert {{in}}/source {R} -o {{out}}", SOURCE, dear=True),
    Scenario("convert {in}/source -r {in}/r.toml -o {out}", ("r.toml",), dear=True),
    Scenario("audit {in}/build", BUILD),
    Scenario("audit {in}/build --json", BUILD),
    Scenario("audit {in}/build --source {in}/source", SOURCE + BUILD),
    Scenario("verify {in}/build", BUILD),
    Scenario("verify {in}/build --source {in}/source --json", SOURCE + BUILD),
    Scenario("validate --since {in}/build {in}/compare.json", (*BUILD, "compare.json")),
    Scenario("diff {in}/build {in}/build", BUILD),
    Scenario("diff {in}/plan.json {in}/audit.json", ("plan.json", "audit.json")),
    Scenario("diff gates-8bit gates-4bit --source {in}/source", SOURCE),
    Scenario("bench --predict {in}/source/config.json --recipe uniform-8bit", ("source/config.json",)),
    Scenario("bench --predict {in}/build", BUILD),
    *(Scenario(f"bench --from {{in}}/bench.json{how}", ("bench.json",))
      for how in ("", " --md", " --csv", " --jsonl", " --sql", " --json")),
    *(Scenario(f"compare --from {{in}}/compare.json --by {by}", ("compare.json",))
      for by in ("recipe", "depth", "turn", "layer", "pair", "statistic")),
    Scenario("compare --from {in}/compare.json --by slice --json -o {out}", ("compare.json",)),
    Scenario("results {in}/results.json {in}/results2.json -o {out}", ("results.json", "results2.json")),
    Scenario("rollout --status {in}/litellm.yaml", ("litellm.yaml",)),
    Scenario("rollout --logs {in}/traffic.ndjson --config {in}/litellm.yaml -o {out}",
             ("traffic.ndjson", "litellm.yaml")),
    *(Scenario(f"validate {{in}}/{name} -t {{in}}/t.toml -o {{out}}", (name, "t.toml"), code=4 if name in JUDGED else 3)
      for name in RECORDS),
    Scenario("validate {in}/compare.json {in}/eval.json {in}/tau2.json -t {in}/t.toml --mixed-machines"
             " --markdown {out}.md --junit {out}.xml", ("compare.json", "eval.json", "tau2.json", "t.toml"), code=4),
    Scenario("report {in}/compare.json {in}/eval.json {in}/bench.json {in}/build {in}/plan.json -o {out}",
             ("compare.json", "eval.json", "bench.json", "build/audit.json", "plan.json")),
    Scenario("audit {in}/build --csv", BUILD),
    Scenario("audit {in}/build --md", BUILD),
    Scenario("audit {in}/build --by tensor", BUILD),
    Scenario("diff {in}/build {in}/plan.json --md", (*BUILD, "plan.json")),
    Scenario("recipes {in}/r.toml --json", ("r.toml",)),
    Scenario("sweep --from {in}/compare.json -t {in}/t.toml -o {out}", ("compare.json", "t.toml"), code=4),
    *(Scenario(f"report {{in}}/{name} -o {{out}}", (name,)) for name in RECORDS),
    Scenario("report {in}/build -o {out}", BUILD),
    Scenario("upload {in}/build me/x --dry-run", BUILD),
    Scenario(f"compare {{in}}/source {R} --data {{in}}/data.jsonl --no-own", (*SOURCE, "data.jsonl"), dear=True),
    Scenario(f"compare {{in}}/source {R} --data {{in}}/talk.jsonl --no-own",
             ("talk.jsonl", "source/chat_template.jinja"), dear=True),
    Scenario("calibrate {in}/source --data {in}/data.jsonl -o {out}", (*SOURCE, "data.jsonl"), dear=True),
    Scenario("allocate {in}/source --bpw 10 --data {in}/many.jsonl --groups 1 --bits 8 --group-size 32 -o {out}",
             (*SOURCE, "many.jsonl"), dear=True),
    Scenario("build {in}/source --bpw 10 --data {in}/many.jsonl --groups 1 --bits 8 --group-size 32 -t {in}/t.toml"
             " -o {out}", (*SOURCE, "many.jsonl", "t.toml"), dear=True, code=4),
    Scenario("compare {in}/source --build {in}/build --data {in}/data.jsonl --no-own", BUILD, dear=True),
    Scenario("bench {in}/build -p 4 -n 2 -r 1 --warmups 0", LOADED, dear=True),
    Scenario("eval --baseline {in}/build --candidate {in}/build --suite {in}/suite.jsonl --max-tokens 2 -o {out}",
             ("suite.jsonl", *LOADED), dear=True),
    Scenario("eval --baseline {in}/build --candidate {in}/build --suite {in}/suite.jsonl --max-tokens 2"
             " --trace {in}/trace.jsonl", ("trace.jsonl",), dear=True),
    Scenario("check-load {in}/build", LOADED, dear=True),
    Scenario("sweep {in}/source --recipes gates-8bit --bits 4 --group-size 32 --unaligned keep -t {in}/t.toml"
             " --data {in}/data.jsonl", (*SOURCE, "data.jsonl", "t.toml"), dear=True, code=4),
]  # fmt: skip
# clean reads markers and journals alone; tests/pipeline/test_unfinished.py has damaged and hostile ones
WITHOUT_INPUTS = {"clean", "demo"}
assert {s.words.split()[0] for s in SCENARIOS} | WITHOUT_INPUTS == set(COMMANDS)

DAMAGES = (
    "missing", "empty", "folder", "fifo", "link", "broken link", "circle", "cut", "flipped", "changed", "changed",
    "changed", "mutated", "swapped", "noise", "nested",
)  # fmt: skip


def run(*words: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, list(words))


def make_inputs(folder: Path) -> None:
    """Make a sound input of every kind: a checkpoint, its build, records of each schema, tables and texts."""
    write_tiny(folder / "source", "qwen3_5_moe")
    texts = {
        "r.toml": RECIPE,
        "t.toml": TOLERANCES,
        "data.jsonl": TEXTS,
        "talk.jsonl": TALK,
        "suite.jsonl": SUITE,
        "many.jsonl": MANY,
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    traffic = (ROOT / "tests" / "rollout" / "litellm-1.108.7.ndjson.gz").read_bytes()
    (folder / "traffic.ndjson").write_bytes(gzip.decompress(traffic))
    servers = ("--baseline", "http://a/v1", "--candidate", "http://b/v1", "--model", "m")
    _made("rollout", *servers, "-o", str(folder / "litellm.yaml"))
    _made("convert", str(folder / "source"), *R.split(), "-o", str(folder / "build"))
    words = {
        "plan.json": f"plan {{in}}/source {R}",
        "fits.json": "plan {in}/source --fits 1GB",
        "audit.json": "audit {in}/build",
        "diff.json": "diff {in}/build {in}/plan.json",
        "predict.json": "bench --predict {in}/build",
        "verify.json": "verify {in}/build",
        "since.json": "validate --since {in}/build",
    }
    for name, command in words.items():
        _made(*command.replace("{in}", str(folder)).split(), "--json", to=folder / name)
    _write_measured(folder)


def _made(*words: str, to: Path | None = None) -> None:
    done = run(*words)
    assert done.exit_code in (0, 1, 4), (words, done.output)
    if to is not None:
        to.write_text(done.stdout)


def _write_measured(folder: Path) -> None:
    """Write records of measurements and τ² results, in the forms that the commands write, with few figures."""
    from tests.evals.eval_records import loop, record_of
    from tests.results.tau2.tau2_files import results, simulation
    from tests.validate.validate_records import bench

    trials = [loop(side, f"t{i}", 3) for i in range(3) for side in (0, 1)]
    for name, value in {
        "compare.json": _small_comparison(),
        "eval.json": record_of(trials),
        "bench.json": bench(rounds=5, settings=SETTINGS),
        "other.json": {"schema": "other.thing/1", "a": [1, {"b": None}]},
        "results.json": results([simulation(str(i)) for i in range(4)]),
        "results2.json": results([simulation(str(i), reward=0.0) for i in range(4)]),
    }.items():
        (folder / name).write_text(json.dumps(value))
    inside = [str(folder / name) for name in ("compare.json", "results.json", "t.toml")]
    _made("tau2", inside[1], "--json", to=folder / "tau2.json")
    _made("validate", inside[0], "-t", inside[2], "--json", to=folder / "verdict.json")
    _made("sweep", "--from", inside[0], "-t", inside[2], "--json", to=folder / "sweep.json")
    (folder / "trace.jsonl").write_text(SPAN)


def _small_comparison() -> dict[str, Any]:
    """Cut the published comparison: two candidates, and of their measurements one of each kind."""
    record: dict[str, Any] = json.loads((ROOT / "audits" / "store-moe" / "compare.json").read_text())
    floor = next(c for c in record["candidates"] if c["kind"] == "noise floor")
    record["candidates"] = [record["candidates"][0], floor]
    for side in (record["baseline"], *record["candidates"]):
        kinds = {(m["metric"], *sorted(m.keys())): m for m in reversed(side["measurements"])}
        side["measurements"] = list(kinds.values())
    return record


class Fuzz:
    """Sound inputs in a folder, and commands run over damaged ones; the environment's own places are watched too."""

    def __init__(self, folder: Path) -> None:
        self.inputs = folder / "in"
        self.watched = [folder / name for name in ("home", "tmp", "here")]
        for path in (self.inputs, *self.watched):
            path.mkdir()
        make_inputs(self.inputs)
        self.out = folder / "out"
        self.more: tuple[str, ...] = ()
        self.last_code, self.codes = 0, Counter[int]()
        self._sound = {path: path.read_bytes() for path in sorted(self.inputs.rglob("*")) if path.is_file()}

    def names(self, random: Random, *, dear: bool) -> Iterator[str]:
        """Names of random cases, without end."""
        scenarios = [(i, s) for i, s in enumerate(SCENARIOS) if s.dear == dear]
        while True:
            number, scenario = random.choice(scenarios)
            target = random.choice(scenario.inputs)
            yield f"{number}:{scenario.name}:{target}:{random.choice(DAMAGES)}#{random.randrange(10**6)}"

    def try_case(self, name: str) -> str | None:
        """Run a case; gives what is wrong with how it ended, None where nothing is."""
        number, _, target, how = name.split(":")
        damage, _, seed = how.partition("#")
        words = SCENARIOS[int(number)].words.replace("{in}", str(self.inputs)).replace("{out}", str(self.out)).split()
        self._damage(self.inputs / target, damage, Random(int(seed)))
        before = _state(self.inputs)
        began = time.monotonic()
        try:
            with _watch(self.watched[2]):
                done = run(*words, *self.more)
            self.last_code = done.exit_code
            self.codes[done.exit_code] += 1
            wrong = self.check(done, words[0]) or ("" if _state(self.inputs) == before else "the inputs have changed")
            wrong = wrong or ("" if time.monotonic() - began < LIMIT else "too slow")
            return f"{wrong}\n{done.output[-2000:]}" if wrong else None
        except _TooLongError:
            return f"more than {LIMIT} s"
        finally:
            self._restore()

    def check(self, done: Result, command: str) -> str:
        """What is wrong with how a command ended, if anything."""
        if done.exit_code not in ({0, 1, 2, 3, 4} if command in ("validate", "sweep", "build") else {0, 2, 3, 4}):
            return f"exit code {done.exit_code}"
        if "Traceback" in done.output or "internal error" in done.output or "Exception ignored" in done.output:
            return "a traceback or an internal error"
        if done.exit_code in (2, 3) and not done.output.strip():  # `audit` and others list on stdout what is wrong
            return "no complaint"
        if not all(line.isprintable() for line in done.stderr.splitlines()):
            return "a complaint that could disturb a terminal"
        if max(map(len, done.stderr.splitlines()), default=0) > 4000:
            return "a complaint without end"
        left = [str(path) for folder in self.watched for path in folder.iterdir() if path.name not in _CACHES]
        left += [str(path) for path in self.out.parent.iterdir()
                 if path not in (self.inputs, *self.watched) and not path.name.startswith(self.out.name)]  # fmt: skip
        return f"left behind: {left}" if left else ""

    def _damage(self, path: Path, how: str, random: Random) -> None:
        if how == "none":
            return
        if path.is_dir():
            shutil.rmtree(path)
            data = b""
        else:
            data = path.read_bytes()
            path.unlink()
        match how:
            case "missing":
                pass
            case "folder":
                path.mkdir()
            case "fifo":
                os.mkfifo(path)
            case "link":
                path.symlink_to("/etc/passwd")
            case "broken link":
                path.symlink_to("nowhere")
            case "circle":
                path.symlink_to(path.name)
            case _:
                path.write_bytes(self._changed(data, how, random))

    def _changed(self, data: bytes, how: str, random: Random) -> bytes:
        match how:
            case "cut":
                return data[: random.randrange(len(data) + 1)]
            case "flipped":
                for _ in range(random.choice((1, 3, 20))):
                    data = flipped(random, data)
                return data
            case "changed":
                for _ in range(random.choice((1, 1, 1, 2, 5))):
                    data = json_changed(random, data) or flipped(random, data)
                return data
            case "mutated":
                return mutated(random, data, [data]) if len(data) < 20_000 else flipped(random, data)
            case "swapped":
                return random.choice([d for d in self._sound.values() if len(d) < 1 << 20])
            case "noise":
                return random.randbytes(random.choice((1, 100, 10_000)))
            case "nested":
                return b'{"a":' * 100_000 if random.random() < 0.5 else b"[" * 100_000
            case _:
                return b""

    def _restore(self) -> None:
        for path in sorted(self.inputs.rglob("*"), reverse=True):
            if path.is_symlink() or not path.is_dir():
                if path not in self._sound or path.is_symlink() or not path.is_file():
                    path.unlink()
            elif not any(path in sound.parents for sound in self._sound):
                shutil.rmtree(path)
        for path, data in self._sound.items():
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
        for path in self.out.parent.glob(f"{self.out.name}*"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for folder in self.watched:
            shutil.rmtree(folder)
            folder.mkdir()


# Of libraries: mlx keeps what it has compiled among temporary files
_CACHES = {".cache", ".config", "mlx"}


class _TooLongError(BaseException):
    pass


def _state(folder: Path) -> dict[str, Any]:
    """What every entry is, with the bytes of files."""

    def state(path: Path) -> Any:
        if path.is_symlink():
            return str(path.readlink())
        return xxhash.xxh3_64_digest(path.read_bytes()) if path.is_file() else path.lstat().st_mode

    return {str(path): state(path) for path in sorted(folder.rglob("*")) if path.name != "trace.jsonl"}


@contextmanager
def _watch(folder: Path) -> Iterator[None]:
    """Work in a folder, and end what takes too long."""

    def end(*_: object) -> None:
        raise _TooLongError

    before, here = signal.signal(signal.SIGALRM, end), Path.cwd()
    os.chdir(folder)
    signal.alarm(LIMIT + 5)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        os.chdir(here)


@contextmanager
def environment(folder: Path) -> Iterator[None]:
    """Let the home and temporary files of this process lie in the watched folders."""
    places = {"HOME": "home", "TMPDIR": "tmp", "HF_HOME": "home/hf"}
    before = {name: os.environ.get(name) for name in places}
    os.environ.update({name: str(folder / place) for name, place in places.items()})
    tempfile.tempdir = str(folder / "tmp")
    try:
        yield
    finally:
        tempfile.tempdir = None
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.commands")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dear", action="store_true", help="the commands that take a second or more")
    parser.add_argument("--only", default="", help="cases whose scenario begins so")
    parser.add_argument("--case", action="append", help="these cases")
    parser.add_argument("--debug", action="store_true", help="with tracebacks")
    asked = parser.parse_args()
    folder, failed = Path(tempfile.mkdtemp()).resolve(), 0
    with environment(folder):
        fuzz = Fuzz(folder)
        fuzz.more = ("--debug",) if asked.debug else ()
        names = fuzz.names(Random(asked.seed), dear=asked.dear)
        chosen = (name for name in names if name.partition(":")[2].startswith(asked.only))
        for _, name in zip(range(asked.cases), iter(asked.case) if asked.case else chosen, strict=False):
            began = time.monotonic()
            if (wrong := fuzz.try_case(name)) is not None:
                failed += 1
                print(f"--- {name} ({time.monotonic() - began:.1f} s)\n{wrong}", flush=True)
    shutil.rmtree(folder)
    print(f"{failed} failed; exit codes {dict(fuzz.codes)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(_main())
