"""The method distill: gradients as mlx has them, what is learned and when it is kept, builds, and their promises."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner, Result
from mlx_lm.models.gated_delta import gated_delta_ops
from mlx_lm.models.switch_layers import SwitchLinear

from mlxquant.builds.write.convert import ConvertOptions, convert
from mlxquant.calibrate import learning
from mlxquant.calibrate.compensating import Compensating, Documents, notes_of_learning
from mlxquant.calibrate.learning import Learned, Learning, Outcome, Start
from mlxquant.calibrate.room import rooms
from mlxquant.cli import main
from mlxquant.kernels import Quantized, levels_of, pack_levels
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.stream.cpu import learning as forms
from mlxquant.words.formats import Format, widen
from mlxquant.words.progress import Progress, unwatched
from tests.checkpoints import Size, write_tiny
from tests.stream.compare_pass import texts
from tests.support.builds import contents, stored
from tests.support.texts import write_data

WORDS = ("-r", "gates-8bit:bits=3", "--group-size", 32, "--method", "distill")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def ended(result: Result, code: int) -> str:
    assert result.exit_code == code, result.output + result.stderr
    return result.stderr


# --- gradients ---


def same_gradients(one: Any, two: Any, *arrays: mx.array) -> None:
    """Both functions and their gradients by all arrays agree to float32's digits."""
    seed = mx.random.normal(two(*arrays).shape)
    found, expected = (
        mx.value_and_grad(lambda *a, f=f: (f(*a) * seed).sum(), tuple(range(len(arrays))))(*arrays) for f in (one, two)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * float(mx.abs(b).max()))


def test_products_have_mlxs_gradients():
    mx.random.seed(0)
    x, w = mx.random.normal((1, 9, 16)), mx.random.normal((24, 16))
    same_gradients(lambda x, w: forms.dense({"weight": w}, x), lambda x, w: x @ w.T, x, w)
    module = SwitchLinear(16, 8, 5)
    for lead, chosen in (((1, 6, 1, 1), (1, 6, 2)), ((12, 1), (12,))):
        x, indices = mx.random.normal((*lead, 16)), mx.random.randint(0, 4, chosen)

        def own(x: mx.array, w: mx.array, indices: mx.array = indices) -> mx.array:
            module.weight = w
            out: mx.array = module(x, indices)
            return out

        def ours(x: mx.array, w: mx.array, indices: mx.array = indices) -> mx.array:
            return forms.switched({"weight": w, "bias": module.bias}, x, indices)

        same_gradients(ours, own, x, mx.random.normal((5, 8, 16)))


def test_the_delta_rule_in_chunks_has_the_gradients_of_mlx_lms_token_by_token():
    mx.random.seed(1)
    q, k, v = (mx.random.normal((1, 37, heads, 8)) for heads in (1, 1, 2))
    k = k / mx.linalg.norm(k, axis=-1, keepdims=True)
    decay, beta = mx.sigmoid(mx.random.normal((1, 37, 2)) + 2), mx.sigmoid(mx.random.normal((1, 37, 2)))
    state = mx.random.normal((1, 2, 8, 8))
    for part in (0, 1):
        same_gradients(
            lambda *a, part=part: forms.gated_delta(*a)[part],
            lambda *a, part=part: gated_delta_ops(*a)[part],
            q, k, v, decay, beta, state,
        )  # fmt: skip


# --- what is learned ---


def as_mlx_has_it(weight: mx.array, fmt: Format) -> Quantized:
    packed, *others = mx.quantize(weight, fmt.group_size, fmt.bits)
    words = mx.uint16 if weight.dtype == mx.bfloat16 else weight.dtype
    return Quantized(np.asarray(packed), *(np.array(a.view(words)) for a in others))


def restored(encoded: Quantized, dtype: str, fmt: Format) -> Any:
    """What it stands for, in float32."""
    assert encoded.biases is not None
    scales, biases = (widen(a, dtype)[..., None] for a in (encoded.scales, encoded.biases))
    return (levels_of(encoded, fmt).astype(np.float32) * scales + biases).reshape(len(encoded.packed), -1)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_levels_are_packed_as_mlx_packs_them(bits):
    fmt = Format(bits, 32)
    encoded = as_mlx_has_it(mx.random.normal((3, 64)), fmt)
    levels = levels_of(encoded, fmt)
    assert levels.shape == (3, 2, 32)
    assert levels.max() == 2**bits - 1
    assert np.array_equal(pack_levels(levels, fmt), encoded.packed)


def start(
    rows: int = 8, columns: int = 64, bits: int = 2, dtype: str = "BF16", counts: Sequence[int] = (1000,)
) -> Start:
    values = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    own = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else values.astype(np.float16)
    fmt = Format(bits, 32)
    weight = mx.array(own).view(mx.bfloat16) if dtype == "BF16" else mx.array(own)
    shape = (rows, columns) if len(counts) == 1 else (len(counts), rows // len(counts), columns)
    encoded = as_mlx_has_it(weight, fmt)
    return Start("m", shape, own, dtype, fmt, encoded, np.array(counts))


def same(a: Quantized, b: Quantized) -> bool:
    assert a.biases is not None and b.biases is not None
    return all(np.array_equal(x, y) for x, y in ((a.packed, b.packed), (a.scales, b.scales), (a.biases, b.biases)))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_a_module_begins_as_it_was_encoded(dtype):
    began = start(dtype=dtype, counts=(5, 5))
    module = Learned(began)
    assert same(module.encoded(), began.encoded)
    expected = restored(began.encoded, dtype, began.format)
    np.testing.assert_array_equal(np.asarray(module.weight()).reshape(expected.shape), expected)


def test_what_is_stored_is_what_was_learned_and_experts_of_few_inputs_move_less():
    began = start(counts=(10_000, 1, 0, 10_000))
    module = Learned(began)
    for step in range(40):
        module.follow(mx.ones(module.weight().shape) * mx.array([1.0, -1.0] * 32), step)
    encoded = module.encoded()
    expected = restored(encoded, "BF16", began.format)
    np.testing.assert_array_equal(np.asarray(module.weight()).reshape(expected.shape), expected)
    moved = (levels_of(encoded, began.format) != levels_of(began.encoded, began.format)).reshape(4, -1).mean(1)
    assert moved[0] > 0.2
    assert moved[0] > 4 * moved[1]
    assert moved[2] == 0


class Linear:
    """A layer of one matrix, on documents of its own."""

    number = 0

    def __init__(self, weight: Any, directions: Sequence[Any]) -> None:
        rng = np.random.default_rng(1)
        self.documents = range(len(directions))
        self.inputs = [mx.array((rng.standard_normal((30, len(d))) @ d).astype(np.float32)[None]) for d in directions]
        self.weight = mx.array(weight)

    @contextmanager
    def gradients(self) -> Iterator[None]:
        yield

    def length(self, d: int) -> int:
        return 30

    def target(self, d: int) -> mx.array:
        return self.inputs[d] @ self.weight.T

    def through(self, d: int, arrays: Mapping[str, mx.array]) -> mx.array:
        return self.inputs[d] @ arrays["m.weight"].T


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer steps, of one document each."""
    monkeypatch.setattr(learning, "STEPS", 25)
    monkeypatch.setattr(learning, "STEP_TOKENS", 30)


def test_a_layer_is_learned_and_kept_where_documents_held_out_agree(short):
    began, rng = start(), np.random.default_rng(2)
    own = rng.standard_normal((6, 64))
    layer = Linear(widen(began.values, "BF16"), [own] * 5)
    told: list[float] = []
    learnt = Learning(layer, [began], {})
    outcome = learnt.run(told.append)
    assert outcome.is_better
    assert outcome.error is not None and outcome.start_error is not None
    assert outcome.error < 0.6 * outcome.start_error
    assert len(told) == 1
    assert not same(learnt.encoded()["m"], began.encoded)
    again = Learning(layer, [began], {})
    assert again.run() == outcome
    assert same(again.encoded()["m"], learnt.encoded()["m"])


def test_a_layer_that_is_no_better_on_documents_held_out_is_not_kept(short):
    began, rng = start(), np.random.default_rng(2)
    one, other = rng.standard_normal((2, 64)), rng.standard_normal((40, 64))
    layer = Linear(widen(began.values, "BF16"), [other, one, one, one, other])  # the first and fifth are held out
    assert not Learning(layer, [began], {}).run().is_better
    assert not Outcome(1.0, None).is_better
    worse = {f"m.layers.1.{part}": Outcome(0.5, 0.6) for part in ("q", "k")}
    assert notes_of_learning({"m.layers.0.q": Outcome(0.5, 0.2), **worse}) == [
        "method distill: on documents held out, the squared error of the outputs of 1 layer is 0.40 of what it was when"
        " learning began in the median, 0.40 at most",
        "method distill: kept as gptq encoded them, since they were no better on documents held out: m.layers.1",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--calibration", "x.cal"), "the method distill needs the documents themselves; give --data FILE"),
        (("--propagate",), "--propagate: the method distill sends the texts both ways; leave it out"),
    ],
)
def test_options_that_do_not_fit_are_a_usage_error(words, message, tmp_path):
    write_tiny(tmp_path / "tiny", "qwen3_moe")
    assert message in ended(run("convert", tmp_path / "tiny", *WORDS, *words, "-o", tmp_path / "b"), 2)


# --- builds ---


def through_library(source: Path, out: Path, watch: Any = unwatched, **options: Any) -> list[str]:
    """A build on random tokens, through the library; gives the encoder's notes."""
    opened = open_checkpoint(source)
    layout = read_layout(opened)
    recipe = load_recipe("gates-8bit", bits=2, group_size=32, method="distill", unaligned="keep")
    plan = make_plan(layout, recipe, opened)
    encoder = Compensating(
        open_checkpoint(source), layout, plan, Documents(texts(), {"name": "random"}),
        **{"propagate": False, "threads": 2, **options},
    )  # fmt: skip
    convert(opened, layout, plan, out, ConvertOptions(threads=2), watch, encoder=encoder)
    return encoder.notes


@pytest.mark.slow
def test_a_build_says_what_was_learned_and_is_verified(short, tmp_path):
    source, data = tmp_path / "tiny", write_data(tmp_path / "texts.jsonl", 5)
    write_tiny(source, "qwen3_moe", Size(layers=2, hidden=64))
    said = ended(run("convert", source, *WORDS, "--data", data, "-o", tmp_path / "build"), 0)
    assert "to learn it" in said
    assert "learning takes" in said
    options = json.loads((tmp_path / "build" / "mlxquant.json").read_text())["options"]["encoder"]
    assert options["method"] == "distill"
    assert options["learning"]["steps"] == 25
    audit = json.loads((tmp_path / "build" / "audit.json").read_text())
    modules = {m["path"]: m for m in audit["modules"]}
    up = modules["model.layers.1.mlp.switch_mlp.up_proj"]
    assert up["method"] == "distill"
    assert up["inputs"]["learned"]["kept"] in ("learned", "start")
    assert "learned" not in modules["lm_head"]["inputs"]
    again = json.loads(run("audit", tmp_path / "build", "--json").stdout)
    assert [m.get("inputs") for m in again["modules"]] == [m.get("inputs") for m in audit["modules"]]
    verified = run("verify", tmp_path / "build", "--source", source, "--all")
    assert "method distill:" in verified.output
    ended(verified, 0)
    refused = ended(run("compare", source, *WORDS, "--data", data), 2)
    assert "method distill" in refused


@pytest.mark.slow
def test_a_killed_build_gives_the_same_bytes(short, tmp_path):
    source = tmp_path / "tiny"
    write_tiny(source, "qwen3_moe", Size(layers=2, hidden=64))
    through_library(source, tmp_path / "whole", threads=1)

    def stop(progress: Progress) -> None:
        if progress.item == "layer 1" and progress.seconds is not None:
            raise KeyboardInterrupt

    def in_the_middle(seconds: float, layers: int) -> None:
        assert (seconds > 0, layers) == (True, 2)
        raise KeyboardInterrupt  # layer 0 is encoded, and not learned yet

    with pytest.raises(KeyboardInterrupt):
        through_library(source, tmp_path / "again", tell=in_the_middle, keep_every_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        through_library(source, tmp_path / "again", stop, keep_every_s=0.0)
    through_library(source, tmp_path / "again")
    assert contents(tmp_path / "whole") == contents(tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["deepseek_v3", "gpt_oss", "nemotron_h", "qwen3_5_moe"])
def test_every_architecture_is_learned(architecture, tmp_path, short, monkeypatch):
    monkeypatch.setattr(learning, "STEPS", 3)
    write_tiny(tmp_path / "tiny", architecture)
    notes = through_library(tmp_path / "tiny", tmp_path / "build")
    assert any("method distill" in note for note in notes)
    assert stored(tmp_path / "build")


def test_memory_of_learning_is_counted_and_not_beside_what_gptq_takes(tmp_path):
    write_tiny(tmp_path / "tiny", "qwen3_moe")
    opened = open_checkpoint(tmp_path / "tiny")
    recipe = load_recipe("gates-8bit", bits=3, group_size=32, method="distill", unaligned="keep")
    plan = make_plan(read_layout(opened), recipe, opened)
    paths = [p.module.path for p in plan.modules if p.format and p.decision.method == "distill"]
    without, room = (rooms([plan], paths, 100, 1, None, learned=of)[0] for of in (((), 0), (paths, 64)))
    assert room.learning > 40 * max(p.module.parameters for p in plan.modules if p.module.layer is not None)
    assert room.total == without.total + max(0, room.learning - without.inputs - without.workers)
