"""The forms in which `convert` can be typed: several recipes, LM Studio's folder, mlx_lm.convert's own words."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from click.testing import CliRunner, Result

from mlxquant.builds.write.opening import Opening
from mlxquant.cli import main
from mlxquant.cli.convert_texts import opening_text
from tests.support.builds import config_of, contents, stored

GROUP = ("--group-size", "32")


@pytest.fixture
def folder(tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a checkpoint `source`, a home of its own and nothing of LM Studio's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LMSTUDIO_HOME", raising=False)
    (tmp_path / "home").mkdir()
    shutil.copytree(tiny_qwen, tmp_path / "source")
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["convert", *words])


# --- several recipes ---


def test_several_recipes_are_as_many_builds_in_out(folder):
    done = run("source", "-r", "gates-8bit", "-r", "gates-8bit:bits=4", *GROUP, "-o", "builds")
    assert done.exit_code == 0, done.stderr
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [
        "builds/gates-8bit", "builds/gates-8bit:bits=4",
    ]  # fmt: skip
    assert "mlxquant: builds/gates-8bit: " in done.stderr  # what the plan says, before the work begins
    assert done.stderr.index("mlxquant: builds/gates-8bit: ") < done.stderr.index("mlxquant: reads ")
    assert "mlxquant diff builds/gates-8bit builds/gates-8bit:bits=4\n" in done.stderr
    assert run("source", "-r", "gates-8bit", *GROUP, "--bits", "4", "-o", "alone").exit_code == 0
    assert contents(folder / "alone") == contents(folder / "builds" / "gates-8bit:bits=4")


def test_json_of_several_builds_is_one_list(folder):
    done = run("source", "-r", "uniform-8bit", "-r", "gates-8bit", *GROUP, "--unaligned", "keep", "-o", "b", "--json")
    assert [m["recipe"]["name"] for m in json.loads(done.stdout)] == ["uniform-8bit", "gates-8bit"]


def test_the_same_recipe_twice_is_refused(folder):
    refused = run("source", "-r", "none", "-r", "none", "-o", "builds")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "-r none: is given twice" in refused.stderr


def test_a_recipes_name_does_not_lead_out_of_the_folder(folder):
    Path("mine.toml").write_text('name = "../mine"\n[quantize]\nbits = 8\ngroup_size = 32\n')
    refused = run("source", "-r", "mine.toml", "-r", "none", "-o", "builds/here")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "-r: '../mine': each recipe's build gets a folder of its name" in refused.stderr
    assert not (folder / "builds").exists()


# --- LM Studio ---


@pytest.mark.parametrize(
    ("word", "place"),
    [
        (None, "mlxquant/source-gates-8bit"),
        ("mine", "mlxquant/mine"),
        ("me/mine", "me/mine"),
    ],
)
def test_lm_studio_finds_the_build_in_its_folder(folder, word, place):
    done = run("source", "-r", "gates-8bit", *GROUP, "--to", "lmstudio", *(("-o", word) if word else ()))
    assert done.exit_code == 0, done.stderr
    out = folder / "home" / ".lmstudio" / "models" / place
    assert (out / "config.json").is_file()
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    assert done.stderr.splitlines()[-1] == f"      LM Studio: My Models, {out.name}; or lms load {place}"
    again = run("source", "-r", "gates-8bit", *GROUP, "--to", "lmstudio", *(("-o", word) if word else ()))
    assert (again.exit_code, "exists already" in again.stderr) == (3, True)


def test_several_builds_for_lm_studio_lie_beside_each_other(folder):
    words = ("-r", "gates-8bit", "-r", "gates-8bit:bits=4", *GROUP, "--to", "lmstudio", "-o", "me")
    assert run("source", *words).exit_code == 0
    names = ["source-gates-8bit", "source-gates-8bit-bits-4"]
    assert sorted(p.name for p in (folder / "home/.lmstudio/models/me").iterdir()) == names


@pytest.mark.parametrize("word", ["/tmp/x", "../x", "a/b/c", "a b", ".x"])
def test_a_name_that_would_leave_lm_studios_folder_is_refused(folder, word):
    refused = run("source", "-r", "none", "--to", "lmstudio", "-o", word)
    assert refused.exit_code == 2
    assert "NAME or PUBLISHER/NAME expected" in refused.stderr
    assert not (folder / "home" / ".lmstudio").exists()


def test_lm_studio_gets_the_vision_tower_where_it_can_use_it(tiny, folder):
    source = folder / "seeing"
    shutil.copytree(tiny("qwen3_5_moe_vision"), source)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (source / name).unlink(missing_ok=True)
    text = run("seeing", "-r", "none", "--to", "lmstudio", "-o", "no-processor")
    assert "text only: LM Studio loads it through mlx-lm; the source has no preprocessor_config.json" in text.stderr
    (source / "preprocessor_config.json").write_text("{}")
    seeing = run("seeing", "-r", "none", "--to", "lmstudio", "-o", "seeing")
    assert "with its vision tower: LM Studio loads it through mlx-vlm and takes images" in seeing.stderr
    blind = run("seeing", "-r", "none", "--to", "lmstudio", "-o", "blind", "--no-vision")
    assert [r.exit_code for r in (text, seeing, blind)] == [0, 0, 0]
    models = folder / "home/.lmstudio/models/mlxquant"
    has_tower = {path.name: "vision_config" in config_of(path) for path in models.iterdir()}
    assert has_tower == {"no-processor": False, "seeing": True, "blind": False}


# --- mlx_lm.convert's words ---


def test_every_option_of_mlx_lm_convert_is_known():
    parser = importlib.import_module("mlx_lm.convert").configure_parser()
    theirs = {word for action in parser._actions for word in action.option_strings} - {"-h", "--help"}
    ours = {word for p in importlib.import_module("mlxquant.cli.convert").command.params for word in p.opts}
    assert theirs <= ours


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--dtype", "float16"],
        ["-q"],
        ["-q", "--q-bits", "8", "--q-group-size", "32"],
        ["-q", "--q-mode", "mxfp4"],
    ],
    ids=" ".join,
)
def test_mlx_lms_own_command_line_gives_mlx_lms_bytes(folder, words, monkeypatch):
    theirs = importlib.import_module("mlx_lm.convert")
    form = ["--hf-path", "source", "--mlx-path"]
    parsed = vars(theirs.configure_parser().parse_args([*form, "theirs", *words]))
    with mx.stream(mx.cpu):
        theirs.convert(**parsed)
    done = run(*form, "ours", *words)
    assert done.exit_code == 0, done.stderr
    assert stored(folder / "ours") == stored(folder / "theirs")
    assert with_modes(config_of(folder / "ours")) == with_modes(config_of(folder / "theirs"))


def with_modes(config: dict[str, Any]) -> dict[str, Any]:
    """The quantization block, with the mode that mlx-lm leaves out where it is affine."""
    block = config.get("quantization", {})
    return {k: {"mode": "affine", **v} if isinstance(v, dict) else v for k, v in block.items()}


def test_mlx_lms_default_place_and_its_mixed_recipes(folder):
    done = run("--model", "source", "-q", "--quant-predicate", "mixed_4_6", "--unaligned", "keep")
    assert done.exit_code == 0, done.stderr
    assert "--quant-predicate mixed_4_6 is -r mixed-4-6: as mlx-lm's, but routers are kept" in done.stderr
    assert json.loads((folder / "mlx_model" / "mlxquant.json").read_text())["recipe"]["name"] == "mixed-4-6"


def test_without_q_mlx_lms_bits_are_ignored_aloud_and_a_rule_is_not(folder):
    form = ("--hf-path", "source", "--q-bits", "4", "--mlx-path")
    done = run(*form, "plain")
    assert "mlxquant: --q-bits: ignored without -q, as mlx_lm.convert does; the recipe is none\n" in done.stderr
    done = run(*form, "ruled", "--set", "role=expert:bits=4,group_size=32")
    assert done.exit_code == 0, done.stderr
    assert "quantization" in config_of(folder / "ruled")
    assert "quantization" not in config_of(folder / "plain")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--hf-path", "source", "-d"], "-d: no such option here; the recipe none makes floats"),
        (["--hf-path", "source", "-q", "--upload-repo", "me/x"], "run mlxquant upload OUT me/x"),
        (["--hf-path", "source", "-q", "--quant-predicate", "mixed_3_4"], "--quant-predicate mixed_3_4: no such"),
        (["source", "--hf-path", "source", "-q"], "SOURCE is given twice"),
        (["source", "-q", "-o", "a", "--mlx-path", "b"], "OUT is given twice"),
        (["source", "-q", "-r", "gates-8bit", "-o", "out"], "give it or -r gates-8bit, not both"),
        (["source", "-q"], "Missing option '-o'"),
        (["source", "-q", "-o", "out", "--revision", "main"], "goes with a Hub id"),
        (["-q"], "Missing argument 'SOURCE'"),
    ],
)
def test_what_means_nothing_here_is_refused_by_name(folder, words, reason):
    refused = run(*words)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert reason in refused.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["home", "source"]


# --- the line at the beginning ---


@pytest.mark.parametrize(
    ("left", "seconds", "from_hub", "text"),
    [
        (None, None, False, "reads 4.00 GiB, writes 2.00 GiB; 9.00 GiB free in /x; less than a minute"),
        (None, 150.0, False, "reads 4.00 GiB, writes 2.00 GiB; 9.00 GiB free in /x; about 3 minutes"),
        (1 << 30, 9000.0, False,
         "reads 4.00 GiB, writes the 1.00 GiB that are missing of 2.00 GiB; 9.00 GiB free in /x; about 2.5 hours"),
        (None, None, True,
         "downloads 4.00 GiB, writes 2.00 GiB; 9.00 GiB free in /x; less than a minute at 100 MB/s of download"),
    ],
)  # fmt: skip
def test_the_line_at_the_beginning(left, seconds, from_hub, text):
    assert opening_text(Opening(4 << 30, 2 << 30, 9 << 30, Path("/x"), from_hub, left, seconds)) == text


@pytest.mark.parametrize(
    ("cached", "start", "end"),
    [
        (1 << 30, "downloads 3.00 GiB, writes", "; less than a minute at 100 MB/s of download"),
        (4 << 30, "reads 4.00 GiB from the Hub's cache, writes", " free in /x"),
    ],
)
def test_what_the_hubs_cache_has_is_not_counted_as_a_download(cached, start, end):
    text = opening_text(Opening(4 << 30, 2 << 30, 9 << 30, Path("/x"), from_hub=True, cached_bytes=cached))
    assert text.startswith(start) and text.endswith(end)
