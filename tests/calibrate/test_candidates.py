"""Recipes that need documents, encoded within the pass of a comparison: as their builds, whatever is beside them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlxquant.builds.write.convert import ConvertOptions, convert
from mlxquant.calibrate.candidates import EncodedCandidates
from mlxquant.calibrate.compensating import Compensating, Documents
from mlxquant.cli import main
from mlxquant.errors import UsageError
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import Recipe, load_recipe
from mlxquant.report.compare import compare_text
from mlxquant.source.hub.open import open_source
from mlxquant.stream.candidates import Candidate
from mlxquant.stream.engine import compare
from mlxquant.stream.options import CompareOptions
from mlxquant.words.progress import Progress, unwatched
from tests.checkpoints import Size, write_tiny, write_tiny_qwen3_5_moe
from tests.source.hub.hub_server import hub_with
from tests.stream.compare_pass import Keeper, texts
from tests.support.builds import stored
from tests.support.texts import write_data

SMALL = Size(layers=1, hidden=64)
DOCUMENTS = Documents(texts((9, 24, 30), seed=3), {"name": "random", "count": 3})
JUDGING = texts((12, 7), seed=1)


def recipe(bits: int = 3, method: str = "gptq", sets: Sequence[str] = ()) -> Recipe:
    return load_recipe("gates-8bit", bits=bits, group_size=32, method=method, unaligned="keep", sets=sets)


def judged(
    source: Path | str, candidates: Mapping[str, Recipe | Path], watch: Any = unwatched, **how: Any
) -> dict[str, np.ndarray[Any, Any]]:
    """KL of each scored token, by candidate; `how` are a folder to work in, and options of the encoding."""
    work, keeper = how.pop("work", None), Keeper()
    again = partial(open_source, str(source), weights=True)
    encoding = EncodedCandidates(DOCUMENTS, **{"threads": 2, "reopen": again, **how})
    options = CompareOptions(noise_floor=False, own=False, work=work, keep_every_s=0.0)
    listed = [
        Candidate(name, build=c) if isinstance(c, Path) else Candidate(name, recipe=c) for name, c in candidates.items()
    ]
    compare(open_source(str(source), weights=True), listed, JUDGING, keeper, options, watch, encoding=encoding)
    return {
        name: np.concatenate([keeper.scores[i, "accumulated", d].kl for d in range(len(JUDGING))])
        for i, name in enumerate(candidates)
    }


def built(source: Path | str, chosen: Recipe, out: Path, *, propagate: bool = False, watch: Any = unwatched) -> Path:
    """The build that `convert` writes on the same documents."""
    opened = open_source(str(source), weights=True)
    layout = read_layout(opened)
    plan = make_plan(layout, chosen, opened)
    again = open_source(str(source), weights=True)
    encoder = Compensating(again, layout, plan, DOCUMENTS, propagate=propagate, threads=2)
    convert(opened, layout, plan, out, ConvertOptions(threads=2, audit=False, hash=False), watch, encoder=encoder)
    return out


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    write_tiny(folder, "qwen3_moe", SMALL)
    return folder


def test_a_candidate_is_the_build_that_convert_writes_on_the_same_documents(source, tmp_path):
    build = built(source, recipe(), tmp_path / "build")
    kl = judged(source, {"within": recipe(), "built": build, "rounded": recipe(method="rtn")})
    assert kl["within"].tobytes() == kl["built"].tobytes()
    assert kl["within"].mean() < kl["rounded"].mean()


@pytest.mark.slow
@pytest.mark.parametrize("propagate", [False, True])
def test_an_embedding_that_is_the_head_is_encoded_by_what_enters_the_head(propagate, tmp_path):
    write_tiny(tmp_path / "tied", "llama", SMALL)
    recipes = {"three": recipe(), "imatrix": recipe(method="imatrix")}
    builds = {
        f"built {name}": built(tmp_path / "tied", each, tmp_path / name, propagate=propagate)
        for name, each in recipes.items()
    }
    kl = judged(tmp_path / "tied", {**recipes, **builds}, propagate=propagate)
    for name in recipes:
        assert kl[name].tobytes() == kl[f"built {name}"].tobytes(), name
    with pytest.raises(UsageError, match=r"model.embed_tokens is the head, too, .* judge a build, or give --set"):
        judged(tmp_path / "tied", {"three": recipe()}, reopen=None)


# --- promises ---


@pytest.mark.slow
@pytest.mark.parametrize("propagate", [False, True])
def test_candidates_beside_each_other_are_their_builds_and_resume(propagate, tmp_path):
    write_tiny(tmp_path / "two", "qwen3_moe", Size(layers=2, hidden=64))
    mixed = ("role=attention:method=imatrix", "path=*.down_proj:bits=4")
    recipes = {
        "three": recipe(),
        "mixed": recipe(sets=mixed),
        "imatrix": recipe(method="imatrix"),
        "late": recipe(sets=("layers=0:keep", "path=model.embed_tokens:keep")),
        "rounded": recipe(method="rtn"),
    }
    builds = {
        f"built {name}": built(tmp_path / "two", each, tmp_path / f"{name}", propagate=propagate)
        for name, each in recipes.items()
        if name != "rounded"
    }
    kl = judged(tmp_path / "two", {**recipes, **builds}, propagate=propagate)
    for name in recipes.keys() - {"rounded"}:
        assert kl[name].tobytes() == kl[f"built {name}"].tobytes(), name

    def stop(progress: Progress) -> None:
        if progress.item == "layer 0" and progress.seconds is not None:
            raise KeyboardInterrupt

    for watch in (stop, unwatched):
        try:
            again = judged(tmp_path / "two", recipes, watch, propagate=propagate, work=tmp_path / "work")
        except KeyboardInterrupt:
            assert (tmp_path / "work" / "state.npz").exists()
    # the first layer's scores were taken by the run that was stopped; tokens are scored by the second
    assert {name: kl[name].tobytes() for name in recipes} == {name: each.tobytes() for name, each in again.items()}


@pytest.mark.slow
def test_less_memory_takes_inputs_in_rounds_and_changes_no_bit(source):
    rooms: list[Any] = []
    whole = judged(source, {"within": recipe()}, tell=rooms.append)
    limit = rooms[0].total - rooms[0].inputs // 2
    parts = judged(source, {"within": recipe()}, tell=rooms.append, max_memory=limit)
    assert (rooms[0].rounds, rooms[1].rounds > 1, rooms[1].total <= limit) == (1, True, True)
    assert whole["within"].tobytes() == parts["within"].tobytes()
    with pytest.raises(UsageError, match=r"--max-memory: .* are needed for the method gptq"):
        judged(source, {"within": recipe()}, max_memory=rooms[0].total - rooms[0].inputs)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["deepseek_v3", "qwen3_5_moe"])
def test_candidates_of_other_architectures_are_their_builds(architecture, tmp_path):
    write_tiny(tmp_path / "tiny", architecture)
    build = built(tmp_path / "tiny", recipe(), tmp_path / "build")
    kl = judged(tmp_path / "tiny", {"within": recipe(), "built": build})
    assert kl["within"].tobytes() == kl["built"].tobytes()


@pytest.mark.slow
def test_from_the_hub_builds_and_candidates_are_those_of_the_folder(monkeypatch, tmp_path):
    write_tiny_qwen3_5_moe(tmp_path / "many", shards=6)
    build = built(tmp_path / "many", recipe(), tmp_path / "build")
    kl = judged(tmp_path / "many", {"within": recipe()})
    with hub_with("org/many", tmp_path / "many", monkeypatch, tmp_path / "hub") as server:
        present: list[int] = []

        def look(_: Progress) -> None:
            present.append(len(list(tmp_path.glob("*/**/source/*.safetensors"))))

        work = tmp_path / "work"
        assert judged("org/many", {"within": recipe()}, look, work=work)["within"].tobytes() == kl["within"].tobytes()
        assert 0 < max(present) < 6
        assert not work.exists()
        assert stored(built("org/many", recipe(), tmp_path / "hub-build", watch=look)) == stored(build)
        assert not (tmp_path / "hub-build.partial").exists()
        assert server.requests


# --- the commands ---


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


GPTQ = "gates-8bit:bits=3,group_size=32,method=gptq"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Documents to judge on, and others to calibrate on."""
    folder = tmp_path_factory.mktemp("data")
    lines = write_data(folder / "all.jsonl", 10).read_text().splitlines(keepends=True)
    (folder / "judge.jsonl").write_text("".join(lines[:5]))
    (folder / "calibrate.jsonl").write_text("".join(lines[5:]))
    return folder / "judge.jsonl", folder / "calibrate.jsonl"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gates-8bit", "--calibration-data", "x.jsonl"), "no recipe here is encoded on texts; add method=gptq"),
        (("gates-8bit:method=mse", "--max-memory", "9GB"), "no recipe here is encoded on texts"),
        (("gates-8bit:method=imatrix", "--propagate"), "no recipe here has the method gptq"),
        ((GPTQ, "--max-memory", "9"), "a size such as 96GB"),
        (("gates-8bit:method=distill", "--calibration-data", "builtin"), "cannot be judged without a build"),
    ],
)
def test_options_that_would_change_nothing_are_refused(words, message, source, tmp_path):
    assert run("validate", "--init", tmp_path / "tolerances.toml").exit_code == 0
    for command in (("compare", source, "-r"), ("sweep", source, "-t", tmp_path / "tolerances.toml", "--recipes")):
        result = run(*command, *words)
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_documents_that_would_calibrate_and_judge_are_refused(source, data):
    result = run("compare", source, "-r", GPTQ, "--data", data[0], "--calibration-data", data[0])
    assert (result.exit_code, "was calibrated on every document" in result.stderr) == (2, True)


@pytest.mark.slow
def test_the_record_says_what_a_candidate_was_encoded_on(source, data):
    words = ("-r", GPTQ, "-r", "gates-8bit:bits=3,group_size=32", "--data", data[0], "--calibration-data", data[1])
    result = run("compare", source, *words, "--no-noise-floor", "--no-own", "--json")
    assert result.exit_code == 0, result.stderr
    assert "encoding within the pass" in result.stderr
    encoded, rounded, *_ = json.loads(result.stdout)["candidates"]
    calibration = encoded["calibration"]
    assert (calibration["methods"], calibration["documents"], calibration["judged"]) == (["gptq"], 5, 0)
    assert (calibration["name"], calibration["propagate"]) == ("calibrate.jsonl", False)
    assert calibration["tokens"] > 0
    assert len(calibration["sha256"]) == 64
    assert "calibration" not in rounded
    tokens = calibration["tokens"]
    assert f"encoded   by gptq on calibrate.jsonl, 5 documents, {tokens} tokens" in compare_text(
        json.loads(result.stdout)
    )


@pytest.mark.slow
def test_sweep_ends_in_the_command_that_writes_the_build_on_the_same_documents(source, data, tmp_path):
    (tmp_path / "gate.toml").write_text('min_clusters = 1\n[[tolerance]]\nmetric = "kl_nats"\nmax = 9.0\n')
    words = ("--recipes", GPTQ, "--data", data[0], "--calibration-data", data[1], "--propagate")
    swept = run("sweep", source, *words, "-t", tmp_path / "gate.toml", "--work", tmp_path / "work")
    assert swept.exit_code == 0, swept.stderr
    advice = shlex.split(swept.stderr.partition("Next: ")[2])
    assert advice[-5:] == ["--data", str(data[1]), "--propagate", "-o", "BUILD"]
    assert run(*advice[1:-1], tmp_path / "build").exit_code == 0
    both = ("--build", tmp_path / "build", "-r", GPTQ, "--no-noise-floor", "--no-own", "--json")
    candidates = json.loads(run("compare", source, *both, *words[2:]).stdout)["candidates"]
    first, second = ([m for m in c["measurements"] if m["metric"] == "kl_nats"] for c in candidates)
    assert first == second
    assert candidates[1]["calibration"]["judged"] == 0
