"""Builds of the method gptq: what a pass keeps and encodes, resumed, with less memory, on every architecture."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlxquant.builds.write.convert import ConvertOptions, convert
from mlxquant.calibrate.compensating import Compensating, Documents, notes_of
from mlxquant.calibrate.encoded import (
    Encoding,
    ModuleReport,
    encode_modules,
    read_reports,
    read_rows,
    report_of,
    write_encoded,
)
from mlxquant.calibrate.inputs import FITTED, HELD_OUT
from mlxquant.calibrate.room import room_of_plan, rooms
from mlxquant.calibrate.rows import InputRows, call_of
from mlxquant.calibrate.weights import TRUST
from mlxquant.cli import main
from mlxquant.errors import NonFiniteError, UsageError
from mlxquant.kernels import InputCounts, Quantized, quantize_rows
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.words.formats import Format
from mlxquant.words.progress import Progress, unwatched
from tests.checkpoints import Size, write_tiny
from tests.stream.compare_pass import texts
from tests.support.builds import contents, stored
from tests.support.texts import write_data

WORDS = ("-r", "gates-8bit:bits=3", "--group-size", 32)
GPTQ = (*WORDS, "--method", "gptq")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def ended(result: Result, code: int) -> str:
    assert result.exit_code == code, result.output + result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    write_tiny(folder, "qwen3_moe", Size(layers=2, hidden=64))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "texts.jsonl", 5)


@pytest.fixture(scope="module")
def made(source: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("build") / "gptq"
    assert "one pass over the layers first" in ended(run("convert", source, *GPTQ, "--data", data, "-o", out), 0)
    return out


def through_library(source: Path, out: Path, watch: Any = unwatched, **options: Any) -> list[str]:
    """A build on random tokens, through the library; gives the encoder's notes."""
    opened = open_checkpoint(source)
    layout = read_layout(opened)
    plan = make_plan(layout, load_recipe("gates-8bit", bits=3, group_size=32, method="gptq", unaligned="keep"), opened)
    encoder = Compensating(
        open_checkpoint(source), layout, plan, Documents(texts(), {"name": "random"}),
        **{"propagate": False, "threads": 2, **options},
    )  # fmt: skip
    convert(opened, layout, plan, out, ConvertOptions(threads=options.get("threads", 2)), watch, encoder=encoder)
    assert not (out.parent / f"{out.name}.partial").exists()
    return encoder.notes


# --- what is kept ---


def test_experts_have_the_rows_that_were_sent_to_them():
    values = np.arange(12, dtype=np.float32).reshape(1, 3, 1, 1, 4)  # as switched layers call: (…, 1, 1, in)
    chosen = np.array([[[0, 2], [2, 1], [0, 2]]])
    call = call_of(FITTED, values, chosen, 3, 2)
    tokens = values.reshape(3, 4)
    assert [call.of(e).tolist() for e in range(3)] == [tokens[[0, 2]].tolist(), tokens[[1]].tolist(), tokens.tolist()]
    some = call.only(range(1, 2))
    assert some.of(1).tolist() == tokens[[1]].tolist()
    assert len(some.values) == 1
    assert some.sample.tolist() == call.sample.tolist() == tokens[::2].tolist()


def test_an_expert_of_few_rows_leans_on_its_layer_and_one_of_none_is_its_layer():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((300, 1, 8)).astype(np.float32)
    chosen = np.zeros(300, int)
    chosen[:3] = 1
    inputs = InputRows(8, 3, True, [call_of(FITTED, values, chosen, 3, 1)])
    inputs.prepare()
    layer = values[:, 0].T @ values[:, 0] / 300
    own = values[:3, 0].T @ values[:3, 0] / 3
    expected = (3 * own + TRUST * layer * np.trace(own) / np.trace(layer)) / (3 + TRUST)
    np.testing.assert_allclose(inputs.moments(1), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(inputs.moments(2), layer, rtol=1e-4, atol=1e-5)
    down = InputRows(8, 3, False, inputs.calls)
    down.prepare()
    np.testing.assert_allclose(down.moments(2), np.eye(8))


def test_what_judges_are_rows_held_out_else_the_layers_else_those_fitted():
    rows = np.eye(4, dtype=np.float32)[:, None]
    fitted = call_of(FITTED, rows, np.array([0, 1, 0, 2]), 3, 1)
    held_out = call_of(HELD_OUT, rows[:1], np.array([0]), 3, 1)
    inputs = InputRows(4, 3, True, [fitted, held_out])
    inputs.prepare()
    assert [len(inputs.judges(e)) for e in range(3)] == [1, 1, 1]
    alone = InputRows(4, 3, False, [fitted])
    alone.prepare()
    assert [len(alone.judges(e)) for e in range(3)] == [2, 1, 1]


def encoding(values: Any, fitted: Any, held_out: Any) -> Encoding:
    """Two experts of 8 rows each; rows go to either in turn."""
    calls = [
        call_of(part, rows[:, None], np.arange(len(rows)) % 2, 2, 1)
        for part, rows in ((FITTED, fitted), (HELD_OUT, held_out))
    ]
    out = Quantized.empty(16, 128, "BF16", Format(4, 64))
    return Encoding("m.up_proj", values, "BF16", Format(4, 64), InputRows(128, 2, True, calls), range(2), out)


def test_experts_are_encoded_where_documents_held_out_agree_and_rounded_where_not(tmp_path):
    rng = np.random.default_rng(0)
    values = ((rng.standard_normal((16, 128)) * 0.02).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    fitted = (rng.standard_normal((400, 16)) @ rng.standard_normal((16, 128))).astype(np.float32)
    values[:, 0], fitted[:, 0] = 0x3E00, 0  # 0.125
    rounded = quantize_rows(values, "BF16", Format(4, 64))[0]
    unlike = np.zeros((6, 128), np.float32)
    unlike[:, 0] = 1  # what never entered: a column whose outliers rounding stores exactly, and the search clips
    for held_out, is_rounded in ((fitted[::7], ()), (unlike, (0, 1))):
        module = encoding(values, fitted, held_out)
        with ThreadPoolExecutor(2) as pool:
            verdicts = encode_modules([module], pool, allow_nonfinite=False)
        report = report_of(module.path, module.format, module.rows_each, np.array([[200, 200], [5, 5]]), verdicts)
        assert report.rounded == is_rounded
        assert np.array_equal(module.out.packed, rounded.packed) == bool(is_rounded)
        if is_rounded:
            assert report.error_share is None  # rounding made no error there
        else:
            assert report.error_share is not None
            assert report.error_share < 0.3
    path = tmp_path / "encoded" / "layer-0000.safetensors"
    write_encoded(path, {"by": 1}, {module.path: (module.out, report)})
    assert read_reports(path, {"by": 1}) == [report]
    assert read_reports(path, {"by": 2}) is read_reports(tmp_path / "none", {}) is None
    some = Quantized.empty(5, 128, "BF16", Format(4, 64))
    read_rows(path, module.path, slice(6, 11), some)
    assert np.array_equal(some.packed, module.out.packed[6:11])
    assert np.array_equal(some.scales, module.out.scales[6:11])


def test_a_weight_that_is_not_finite_is_named_by_tensor_row_and_column():
    values = np.zeros((16, 128), np.uint16)
    values[10, 7] = 0x7FC0
    module = encoding(values, np.ones((8, 128), np.float32), np.ones((2, 128), np.float32))
    with ThreadPoolExecutor(1) as pool, pytest.raises(NonFiniteError, match=r"m.up_proj.weight: row 10, column 7"):
        encode_modules([module], pool, allow_nonfinite=False)


# --- the build ---


@pytest.mark.slow
def test_manifest_and_audit_say_on_what_it_was_encoded(made, data):
    manifest = json.loads((made / "mlxquant.json").read_text())
    encoder = manifest["options"]["encoder"]
    assert (encoder["method"], encoder["propagate"], encoder["documents"]["count"]) == ("gptq", False, 5)
    assert len(encoder["documents"]["xxh3_128"]) == 5
    assert encoder["documents"]["name"] == data.name
    audit = json.loads((made / "audit.json").read_text())
    inputs = {m["path"]: m["inputs"] for m in audit["modules"] if "inputs" in m}
    up = inputs["model.layers.0.mlp.switch_mlp.up_proj"]
    assert up["rows"] == 2 * inputs["model.layers.0.self_attn.q_proj"]["rows"]  # a token goes to two experts
    assert (len(up["unreached"]) > 0) == (up["fewest"] == 0)
    assert up["fewest"] < up["most"] < up["rows"]
    assert up["held_out"] > 0
    assert 0 < up["output_error_share"] < 1
    assert f"{len(inputs)} modules fitted to" in (made / "AUDIT.md").read_text()
    assert run("audit", made).exit_code == 0
    again = json.loads(run("audit", made, "--json").stdout)
    assert {m["path"]: m["inputs"] for m in again["modules"] if "inputs" in m} == inputs
    notes = audit["notes"]
    assert any("model.embed_tokens: nothing multiplies by it" in note for note in notes)
    assert any("on documents held out, the squared error of 15 modules' outputs is 0." in note for note in notes)


def test_notes_name_experts_without_tokens_and_those_that_rounding_was_kept_for():
    report = ModuleReport("m.down_proj", 20, InputCounts(90, 0, 30, 9, tuple(range(14))), (3, 7), 0.4)
    unreached, rounded = notes_of(report)
    assert "no token reached 14 of 20 experts (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more)" in unreached
    assert rounded == "m.down_proj: rounding was kept for experts 3, 7, no worse on the documents held out"


@pytest.mark.slow
def test_verify_holds_the_bytes_and_measures_what_cannot_be_made_again(made, source, tmp_path):
    result = run("verify", made, "--source", source, "--all")
    assert "measured, not made again" in result.output
    ended(result, 0)
    write_tiny(tmp_path / "other", "qwen3_moe", Size(layers=2, hidden=64), seed=1)
    other = run("verify", made, "--source", tmp_path / "other", "--all")
    ended(other, 3)
    assert "not made of this source" in other.output


@pytest.mark.slow
def test_compare_judges_a_gptq_build(made, source, data, tmp_path):
    kl = {}
    assert "was calibrated on every document" in ended(run("compare", source, "--build", made, "--data", data), 2)
    others = tmp_path / "others.jsonl"
    lines = write_data(tmp_path / "more.jsonl", 9).read_text().splitlines(keepends=True)
    others.write_text("".join(lines[5:]))
    words = (*WORDS, "--build", made, "--data", others, "--max-tokens", 24, "--no-noise-floor", "--no-own", "--json")
    result = run("compare", source, *words)
    ended(result, 0)
    record = json.loads(result.stdout)
    for candidate in record["candidates"]:
        kl[candidate["name"]] = next(m["estimate"] for m in candidate["measurements"] if m["metric"] == "kl_nats")
    assert kl["gptq"] < 0.8 * kl["gates-8bit:bits=3"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "mse", "--data", "x.jsonl"), "no recipe here needs texts"),
        (("--method", "gptq", "--calibration", "x.cal"), "needs the documents themselves; give --data FILE"),
        (("--method", "imatrix", "--calibration", "x.cal", "--data", "x.jsonl"), "give one of them"),
        (("--method", "imatrix", "--propagate"), "no recipe here has the method gptq"),
    ],
)
def test_documents_that_do_not_fit_the_method_are_a_usage_error(words, message, source, tmp_path):
    assert message in ended(run("convert", source, *WORDS, *words, "-o", tmp_path / "b"), 2)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_imatrix_with_documents_gives_the_weights_of_a_calibration_of_them(source, data, tmp_path):
    words = (*WORDS, "--method", "imatrix")
    ended(run("convert", source, *words, "--data", data, "-o", tmp_path / "one"), 0)
    ended(run("calibrate", source, "--data", data, "-o", tmp_path / "x.cal"), 0)
    ended(run("convert", source, *words, "--calibration", tmp_path / "x.cal", "-o", tmp_path / "two"), 0)
    assert stored(tmp_path / "one") == stored(tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "audit.json").read_text())["modules"] for name in ("one", "two"))
    assert [m.get("inputs") for m in one] == [m.get("inputs") for m in two]
    assert any(m["inputs"]["fewest"] < m["inputs"]["most"] for m in one if "inputs" in m)


@pytest.mark.slow
def test_methods_may_be_mixed_by_rule(source, data, tmp_path):
    words = ("--set", "role=attention:method=imatrix", "--set", "role=lm_head:method=rtn", "--data", data)
    ended(run("convert", source, *GPTQ, *words, "-o", tmp_path / "mixed"), 0)
    ended(run("convert", source, *WORDS, "-o", tmp_path / "rtn"), 0)
    ended(run("convert", source, *WORDS, "--method", "imatrix", "--data", data, "-o", tmp_path / "imatrix"), 0)
    mixed, rtn, imatrix = (stored(tmp_path / name) for name in ("mixed", "rtn", "imatrix"))
    assert mixed["lm_head.weight"] == rtn["lm_head.weight"]
    for name in mixed:
        if ".self_attn." in name:
            assert mixed[name] == imatrix[name], name
    down = "model.layers.0.mlp.switch_mlp.down_proj.weight"
    assert mixed[down] not in (rtn[down], imatrix[down])


# --- promises ---


@pytest.mark.slow
def test_workers_and_interruptions_change_no_byte(source, tmp_path):
    through_library(source, tmp_path / "whole", threads=1)

    def stop(progress: Progress) -> None:
        if progress.item == "layer 1" and progress.seconds is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        through_library(source, tmp_path / "again", stop, threads=3, keep_every_s=0.0)
    assert sorted(p.name for p in (tmp_path / "again.partial" / "prepared" / "encoded").iterdir()) == [
        "layer-0000.safetensors",
        "layer-0001.safetensors",
    ]
    steps: list[str] = []
    through_library(source, tmp_path / "again", lambda event: steps.append(event.item), threads=3)
    assert steps[0] == "going on at the head"
    assert contents(tmp_path / "whole") == contents(tmp_path / "again")


@pytest.mark.slow
def test_less_memory_takes_experts_in_rounds_and_gives_the_same_bytes(source, tmp_path):
    opened = open_checkpoint(source)
    plan = make_plan(read_layout(opened), load_recipe("gates-8bit", bits=3, group_size=32, method="gptq"), opened)
    paths = [p.module.path for p in plan.modules if p.format and p.decision.method == "gptq"]
    whole = rooms([plan], paths, 134, 2, None)[0]
    limit = whole.total - whole.inputs // 2
    room, _ = rooms([plan], paths, 134, 2, limit)
    assert (whole.rounds, room.rounds > 1, room.total <= limit) == (1, True, True)
    with pytest.raises(UsageError, match=r"--max-memory: .* are needed for the method gptq"):
        rooms([plan], paths, 134, 2, whole.total - whole.inputs)
    through_library(source, tmp_path / "whole")
    through_library(source, tmp_path / "rounds", max_memory=limit)
    assert stored(tmp_path / "whole") == stored(tmp_path / "rounds")


@pytest.mark.slow
def test_documents_that_go_on_through_encoded_layers_give_another_build(source, tmp_path):
    through_library(source, tmp_path / "one")
    through_library(source, tmp_path / "two", propagate=True)
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert one["model.layers.0.self_attn.q_proj.weight"] == two["model.layers.0.self_attn.q_proj.weight"]
    assert one["model.layers.1.self_attn.q_proj.weight"] != two["model.layers.1.self_attn.q_proj.weight"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    ["deepseek_v3", "gpt_oss", "nemotron_h", "qwen3_5_moe"],
)
def test_every_architecture_is_encoded(architecture, tmp_path):
    write_tiny(tmp_path / "tiny", architecture)
    notes = through_library(tmp_path / "tiny", tmp_path / "build")
    silent = [note.partition(":")[0] for note in notes if "nothing multiplies by it" in note]
    assert all(path.endswith(("embed_tokens", "embeddings", "embed_q")) for path in silent), silent
    assert any("method gptq: on documents held out" in note for note in notes)


def test_a_model_of_122b_is_encoded_within_64_gb(shared: Path) -> None:
    source = open_checkpoint(shared / "reference/configs/Qwen3.5-122B-A10B.json")
    recipe = load_recipe("gates-8bit", bits=4, group_size=64, method="gptq")
    room = room_of_plan(make_plan(read_layout(source), recipe, source), 8)
    assert room is not None and room["tokens"] == 10_000
    assert room["memory_bytes"] / 2**30 == pytest.approx(29.4, abs=0.1)  # as docs/commands/calibrate.md says
