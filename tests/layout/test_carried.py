"""What mlx-lm drops and a build may keep: the vision tower inside its shards, the next-token head beside them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mlxquant.cli import main
from mlxquant.errors import LayoutError, OutputError, UsageError
from mlxquant.layout.carried import MTP_FILE, TOWERS, kind_of
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from tests.checkpoints import ARCHITECTURES, Size, Tensor, write
from tests.support.builds import build, config_of, contents, stored

PATCHES = "patch_embed.proj.weight"


@pytest.fixture(scope="module")
def source(tiny) -> Path:
    """Give a Qwen3.5-MoE with a vision tower and a next-token head."""
    folder: Path = tiny("qwen3_5_moe_vision")
    return folder


@pytest.fixture(scope="module")
def plain(source, tmp_path_factory) -> Path:
    out: Path = tmp_path_factory.mktemp("plain") / "out"
    build(source, out)
    return out


@pytest.fixture(scope="module")
def carried(source, tmp_path_factory) -> Path:
    out: Path = tmp_path_factory.mktemp("carried") / "out"
    build(source, out, keep=["vision", "mtp"])
    return out


def beside(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The tensors of mtp.safetensors."""
    data = (folder / MTP_FILE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    del table["__metadata__"]
    return {
        name: (
            t["dtype"],
            tuple(t["shape"]),
            data[8 + length + t["data_offsets"][0] : 8 + length + t["data_offsets"][1]],
        )
        for name, t in table.items()
    }


# --- vision ---


def test_the_tower_has_mlx_vlms_names_and_the_sources_bytes(source, carried):
    before = {n.removeprefix("model.visual."): t for n, t in stored(source).items() if n.startswith("model.visual.")}
    after = {n.removeprefix("vision_tower."): t for n, t in stored(carried).items() if n.startswith("vision_tower.")}
    assert set(after) == set(before) and len(after) == 21
    assert {n: t for n, t in after.items() if n != PATCHES} == {n: t for n, t in before.items() if n != PATCHES}


def test_the_patch_convolution_is_turned_the_way_mlx_has_it(source, carried):
    _, shape, data = stored(source)[f"model.visual.{PATCHES}"]
    dtype, turned, turned_bytes = stored(carried)[f"vision_tower.{PATCHES}"]
    assert (shape, dtype, turned) == ((64, 3, 2, 16, 16), "BF16", (64, 2, 16, 16, 3))
    wanted = np.frombuffer(data, np.uint16).reshape(shape).transpose(0, 2, 3, 4, 1)
    assert turned_bytes == np.ascontiguousarray(wanted).tobytes()


def test_what_is_kept_changes_no_byte_of_the_model(plain, carried):
    text = {name: tensor for name, tensor in stored(carried).items() if not name.startswith("vision_tower.")}
    assert text == stored(plain)
    assert config_of(carried)["quantization"] == config_of(plain)["quantization"]


def test_text_only_is_the_default(plain):
    assert "vision_config" not in config_of(plain)
    assert not (plain / "preprocessor_config.json").exists() and not (plain / MTP_FILE).exists()


def test_vision_config_and_processor_come_along_with_the_tower(source, carried):
    assert config_of(carried)["vision_config"] == config_of(source)["vision_config"]
    name = "preprocessor_config.json"
    assert (carried / name).read_bytes() == (source / name).read_bytes()


def test_what_transformers_takes_for_granted_is_spelled_out_for_mlx_vlm(tmp_path):
    plan = ARCHITECTURES["qwen3_5_moe_vision"](Size())
    for key in ("mrope_section", "mrope_interleaved"):
        del plan.config["text_config"]["rope_parameters"][key]
    write(tmp_path / "source", plan)
    build(tmp_path / "source", tmp_path / "text")
    build(tmp_path / "source", tmp_path / "vision", keep=["vision"])
    before = config_of(tmp_path / "text")["text_config"]
    after = config_of(tmp_path / "vision")["text_config"]
    assert after["rope_parameters"] == before["rope_parameters"] | {"mrope_section": [11, 11, 10]}
    assert {k: v for k, v in after.items() if k != "rope_parameters"} == {
        k: v for k, v in before.items() if k != "rope_parameters"
    }


def test_a_plan_counts_the_tower_to_the_byte_and_says_what_it_is(source, carried):
    opened = open_checkpoint(source)
    recipe = load_recipe("gates-8bit", group_size=32)
    plan = make_plan(read_layout(opened, keep=["vision", "mtp"]), recipe, opened)
    assert plan.totals["bytes"] == sum(len(data) for _, _, data in stored(carried).values())
    assert plan.carried_files() == {
        MTP_FILE: {"tensors": 19, "bytes": sum(len(t[2]) for t in beside(carried).values())}
    }
    assert plan.dropped == {"tensors": 0, "bytes": 0, "by_kind": {}}
    tower = [m for m in plan.modules if m.module.role == "vision"]
    assert len(tower) == 11 and not any(m.format or m.decision.protected for m in tower)
    assert {m.decision.reason for m in tower} == {
        "carried along as the source has it: mlx-lm's model has no vision part"
    }
    assert {m.share for m in tower} == {(0, 1)}


def test_the_tower_is_cast_as_the_rest_is(source, tmp_path):
    build(source, tmp_path / "out", keep=["vision"], dtype="float16")
    assert {d for n, (d, _, _) in stored(tmp_path / "out").items() if n.startswith("vision_tower.")} == {"F16"}


@pytest.mark.parametrize(
    ("bits", "size"), [(8, 130_648_036_320), (6, 100_120_675_296), (4, 69_593_314_272), (None, 245_125_640_160)]
)
def test_qwen3_5_122b_with_vision_has_its_published_size(paper_headers, bits, size):
    recipe = ["-r", "none"] if bits is None else ["-r", "uniform-8bit", "--bits", str(bits), "--group-size", "64"]
    run = CliRunner().invoke(main, ["plan", str(paper_headers), *recipe, "--keep-vision", "--json"])
    assert json.loads(run.output)["totals"]["bytes"] == size


@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe"])
def test_a_source_without_a_tower_has_none_to_keep(tiny, architecture):
    with pytest.raises(UsageError, match="has no vision tower; leave --keep-vision out"):
        read_layout(open_checkpoint(tiny(architecture)), keep=["vision"])


def test_a_type_whose_tower_is_not_known_is_refused_with_those_that_are(tmp_path):
    folder = with_tensor("llama4", "vision_model.class_embedding", tmp_path)
    with pytest.raises(LayoutError, match=r"tower of a llama4; .* gemma4, mistral3, qwen3_5, .* for a text-only build"):
        read_layout(open_checkpoint(folder), keep=["vision"])


def test_a_tensor_of_the_tower_that_has_no_place_is_named(tmp_path):
    folder = with_tensor("qwen3_5_moe_vision", "vision_tower.new.thing.weight", tmp_path)
    expected = r"vision_tower\.new\.thing\.weight: mlx-vlm's qwen3_5_moe has no known place"
    with pytest.raises(LayoutError, match=expected):
        read_layout(open_checkpoint(folder), keep=["vision"])


def test_a_config_alone_does_not_tell_a_tower(source):
    with pytest.raises(UsageError, match="a config alone does not tell the tensors that --keep-vision asks for"):
        read_layout(open_checkpoint(source / "config.json"), keep=["vision"])


@pytest.mark.parametrize(
    ("model_type", "name", "placed"),
    [
        (
            "qwen3_vl_moe",
            "model.visual.deepstack_merger_list.0.norm.bias",
            "vision_tower.deepstack_merger_list.0.norm.bias",
        ),
        ("qwen3_vl", "visual.pos_embed.weight", "vision_tower.pos_embed.weight"),
        ("mistral3", "vision_tower.ln_pre.weight", "vision_tower.vision_model.ln_pre.weight"),
        ("mistral3", "model.multi_modal_projector.norm.weight", "multi_modal_projector.norm.weight"),
        ("gemma4", "model.embed_vision.embedding_projection.weight", "embed_vision.embedding_projection.weight"),
        ("gemma4", "model.audio_tower.layers.0.weight", None),
    ],
)
def test_names_of_towers_become_mlx_vlms(model_type, name, placed):
    assert kind_of(name, 1) == "vision"
    assert TOWERS[model_type].place(name) == placed


# --- the next-token head ---


def test_the_head_lies_beside_the_shards_under_the_hubs_names(source, carried):
    before = {name: tensor for name, tensor in stored(source).items() if name.startswith("mtp.")}
    assert beside(carried) == before
    index = json.loads((carried / "model.safetensors.index.json").read_text())
    assert not any("mtp" in text for entry in index["weight_map"].items() for text in entry)
    assert not any("mtp" in name for name in stored(carried))


def test_the_head_says_that_it_is_as_the_hub_has_it_so_that_mlx_vlm_makes_its_own_of_it(carried):
    data = (carried / MTP_FILE).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


@pytest.mark.parametrize(("dtype", "stored_as"), [(None, "F32"), ("float16", "F16")])
def test_a_float32_of_the_head_stays_one_unless_another_dtype_is_asked_for(tmp_path, dtype, stored_as):
    plan = ARCHITECTURES["qwen3_5_moe"](Size())
    bias = Tensor("mtp.layers.0.mlp.gate.e_score_correction_bias", (2,), 1.0, dtype="F32")
    write(tmp_path / "source", replace(plan, tensors=[*plan.tensors, bias]))
    build(tmp_path / "source", tmp_path / "out", keep=["mtp"], dtype=dtype)
    assert beside(tmp_path / "out")[bias.name][0] == stored_as


def test_the_manifest_has_the_heads_hash(carried):
    manifest = json.loads((carried / "mlxquant.json").read_text())
    assert manifest["files"][MTP_FILE]["sha256"] == hashlib.sha256((carried / MTP_FILE).read_bytes()).hexdigest()
    entries = {n for n, t in manifest["tensors"].items() if t["file"] == MTP_FILE}
    assert entries == set(beside(carried))
    assert manifest["options"]["keep"] == ["vision", "mtp"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mtp.layers.0.mlp.experts.down_proj", "mtp"),
        ("model.layers.61.eh_proj.weight", "mtp"),
        ("model.layers.60.mlp.gate.weight", "other"),
        ("model.mtp_layers.0.norm.weight", "mtp"),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", "other"),
    ],
)
def test_a_layer_beyond_the_last_is_a_next_token_head(name, kind):
    assert kind_of(name, 61) == kind


def test_a_source_without_a_head_has_none_to_keep(tiny):
    with pytest.raises(UsageError, match="has no next-token head that mlx-lm drops; leave --keep-mtp out"):
        read_layout(open_checkpoint(tiny("llama")), keep=["mtp"])


# --- the commands ---


def test_the_command_keeps_what_its_options_name(source, carried, tmp_path):
    out = tmp_path / "out"
    arguments = ["-r", "gates-8bit", "--group-size", "32", "--keep-vision", "--keep-mtp"]
    run = CliRunner().invoke(main, ["convert", str(source), *arguments, "-o", str(out), "--jobs", "2"])
    assert run.exit_code == 0, run.output
    assert stored(out) == stored(carried) and beside(out) == beside(carried)


def test_a_plan_says_what_lies_beside_the_model(source):
    run = CliRunner().invoke(main, ["plan", str(source), "-r", "gates-8bit", "--keep-mtp"])
    assert "beside      1,216,256  mtp.safetensors, 19 tensors that the model does not load" in run.output
    assert "21 vision tensors" in run.output


def test_an_unfinished_build_is_not_gone_on_with_when_something_else_is_kept(source, tmp_path):
    class Stopped(Exception):
        pass

    def stop(progress) -> None:
        if progress.done > progress.total // 2:
            raise Stopped

    with pytest.raises(Stopped):
        build(source, tmp_path / "out", watch=stop, keep=["vision"])
    with pytest.raises(OutputError, match="keep"):
        build(source, tmp_path / "out")
    build(source, tmp_path / "out", keep=["vision"])
    build(source, tmp_path / "again", keep=["vision"])
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def with_tensor(architecture: str, name: str, folder: Path) -> Path:
    """Write a tiny checkpoint with one tensor more."""
    plan = ARCHITECTURES[architecture](Size())
    write(folder, replace(plan, tensors=[*plan.tensors, Tensor(name, (2,), 1.0)]))
    return folder
