"""Verifying a build against its source: pieces are made again and compared; and the command that does it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.builds.write.pieces import Sizes
from mlxquant.check import remake
from mlxquant.check.remake import verify_source
from mlxquant.check.verify import Verified, verify
from mlxquant.cli import main
from mlxquant.layout.layout import Layout, read_layout
from mlxquant.source.checkpoint import Checkpoint, open_checkpoint
from mlxquant.words.progress import Progress
from tests.builds.cases import RECIPES, Halved, made_with_mlx_lm
from tests.support.builds import build, flip, place_of


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, words)])


def against(folder: Path, source: Path, **how: Any) -> Verified:
    return verify_source(verify(folder), folder, open_checkpoint(source), **how)


def test_a_build_is_what_its_source_and_recipe_make(own_build, source):
    outcome = against(own_build, source, everything=True)
    assert outcome.differences == ()
    assert outcome.sample is not None
    assert (outcome.sample.pieces, outcome.sample.share) == (outcome.sample.all_pieces, 1.0)


def test_a_difference_from_the_source_is_named_with_its_row(source, tmp_path):
    other = Path(shutil.copytree(source, tmp_path / "other"))
    path, start = place_of(other, "lm_head.weight")
    flip(path, start + 300 * 256 + 1, bit=6)
    build(other, tmp_path / "out", "gates-8bit")
    assert verify(tmp_path / "out").differences == ()
    outcome = against(tmp_path / "out", source, everything=True)
    assert any(
        d.startswith("language_model.lm_head.weight") and d.endswith("not what the source gives, from row 300 on")
        for d in outcome.differences
    )


def test_another_config_or_tokenizer_than_the_sources_is_found(copy, source, tmp_path):
    other = Path(shutil.copytree(source, tmp_path / "other"))
    (other / "tokenizer.json").write_text("{}")
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["rope_theta"] = 5
    (other / "config.json").write_text(json.dumps(config))
    text = "\n".join(against(copy, other).differences)
    assert "tokenizer.json: not the source's" in text
    assert "config.json: text_config is not what source and recipe give" in text


@pytest.mark.parametrize("recipe", ["uniform", "default", "deepseek", "none", "mxfp4"])
def test_another_tools_build_is_made_again_from_the_formats_it_has(source, tmp_path, recipe):
    dtype = "float32" if recipe == "none" else None
    folder = made_with_mlx_lm(source, tmp_path / "theirs", RECIPES[recipe](), dtype)
    outcome = against(folder, source, everything=True)
    assert outcome.differences == ()
    path, start = place_of(folder, "language_model.model.layers.1.mlp.switch_mlp.down_proj.weight")
    flip(path, start + 50)
    text = "\n".join(against(folder, source, everything=True).differences)
    assert "language_model.model.layers.1.mlp.switch_mlp.down_proj.weight (model.safetensors): not what" in text


def test_a_sample_takes_some_of_every_kind_is_repeatable_and_says_its_share(own_build, source):
    samples: list[list[tuple[int, str]]] = []
    for seed in (0, 0, 1):
        steps: list[Progress] = []
        result = against(own_build, source, seed=seed, sizes=Sizes(piece=16 << 10), at_least=0, watch=steps.append)
        assert result.differences == ()
        assert result.sample is not None
        assert 0.02 <= result.sample.share < 0.5
        samples.append([(step.done, step.item) for step in steps])
    assert samples[0] == samples[1] != samples[2]
    names = {path.rpartition(".")[2] for _, path in samples[0]}
    assert {"lm_head", "embed_tokens", "gate"} <= names


def test_a_source_is_laid_out_once_for_another_tool_s_build(source, tmp_path, monkeypatch):
    runs: list[str | None] = []

    def counted(checkpoint: Checkpoint, dtype: str | None = None, **options: Any) -> Layout:
        runs.append(dtype)
        return read_layout(checkpoint, dtype=dtype, **options)

    monkeypatch.setattr(remake, "read_layout", counted)
    folder = made_with_mlx_lm(source, tmp_path / "theirs", RECIPES["uniform"]())
    assert against(folder, source, everything=True).differences == ()
    assert runs == [None]


def test_an_encoder_that_a_build_was_made_with_makes_its_pieces_again(source, tmp_path):
    build(source, tmp_path / "halved", "gates-8bit", encoder=Halved())
    assert against(tmp_path / "halved", source, everything=True, encoder=Halved()).differences == ()
    assert against(tmp_path / "halved", source, everything=True).differences != ()


# --- the command ---


def test_the_command_exits_3_on_a_difference_and_0_without(copy, source):
    done = run(copy, "--source", source)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == f"{copy}: whole"
    assert "100 % of the bytes (seed 0)" in done.stdout
    flip(copy / "model.safetensors", -1)
    done = run(copy, "--source", source)
    assert done.exit_code == 3
    assert "its bytes changed" in done.stdout
    assert done.stderr.endswith("2 differences, listed above\n")


def test_json_is_the_record(copy):
    flip(copy / "config.json", 30)
    done = run(copy, "--json")
    record = json.loads(done.stdout)
    assert (done.exit_code, record["schema"], record["whole"]) == (3, "mlxquant.verify/1", False)
    assert any(d.startswith("config.json") for d in record["differences"])


def test_all_without_a_source_is_a_usage_error(own_build):
    assert run(own_build, "--all").exit_code == 2


def test_what_was_found_is_told_even_if_the_source_cannot_be_compared(copy, source):
    text = (copy / "mlxquant.json").read_text()
    (copy / "mlxquant.json").write_text(text.replace('"keep": true', '"keep": false'))
    done = run(copy, "--source", source)
    assert done.exit_code == 3
    assert "mlxquant.json: its own checksum" in done.stdout
