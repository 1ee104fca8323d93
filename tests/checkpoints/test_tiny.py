"""The embedded checkpoints are what they claim: the Hub's layout, the same bytes every time, models that run."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoints import ARCHITECTURES, Blueprint, Size, Tensor, write, write_tiny, write_tiny_qwen3_5_moe
from tests.checkpoints.files import split
from tests.checkpoints.tokenizer import SIZE, token_ids


def headers(folder: Path) -> dict[str, tuple[str, list[int]]]:
    found: dict[str, tuple[str, list[int]]] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        assert header.pop("__metadata__") == {"format": "pt"}
        assert max(v["data_offsets"][1] for v in header.values()) == len(data) - 8 - length
        found |= {name: (v["dtype"], v["shape"]) for name, v in header.items()}
    return found


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def load(folder: Path) -> dict[str, mx.array]:
    tensors: dict[str, mx.array] = {}
    for path in folder.glob("model*.safetensors"):
        tensors |= mx.load(str(path))  # type: ignore[arg-type]
    return tensors


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_tiny_qwen3_5_moe(tmp_path / name, seed=seed)
    a, b, c = (hashes(tmp_path / name) for name in "abc")
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}


def test_bytes_do_not_change_from_one_release_to_the_next(tmp_path):
    write(tmp_path, Blueprint({}, [Tensor("a", (1000,), 0.5), Tensor("b", (10,), 1.0, 2.0, "F32")]))
    values = load(tmp_path)
    assert values["a"][:4].astype(mx.float32).tolist() == [0.1884765625, -0.38671875, 0.169921875, -0.2021484375]
    assert values["b"][:3].tolist() == pytest.approx([2.4014415740966797, 2.0076687335968018, 2.014209747314453])


def test_a_tensor_has_the_same_bytes_however_many_shards_there_are(tmp_path):
    for shards in (1, 4):
        write_tiny_qwen3_5_moe(tmp_path / str(shards), shards=shards)
    one, four = load(tmp_path / "1"), load(tmp_path / "4")
    assert (tmp_path / "1/model.safetensors").exists()
    assert not (tmp_path / "1/model.safetensors.index.json").exists()
    assert one.keys() == four.keys()
    assert all(mx.array_equal(one[name], four[name]) for name in one)


def test_the_index_names_every_tensor_its_shard_and_the_bytes_of_all(tiny_any):
    index = json.loads((tiny_any / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == headers(tiny_any).keys()
    assert set(index["weight_map"].values()) == {p.name for p in tiny_any.glob("model*.safetensors")}
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in load(tiny_any).values())


def test_values_are_finite_and_spread_as_planned(tiny_any):
    planned = {t.name: t for t in ARCHITECTURES[tiny_any.name](Size()).tensors}
    for name, array in load(tiny_any).items():
        plan = planned[name]
        if plan.dtype in ("U8", "F8_E4M3"):
            continue  # mlx loads these as plain bytes
        values = np.array(array.astype(mx.float32))
        assert np.isfinite(values).all(), name
        if values.size > 4096:
            assert values.std() == pytest.approx(plan.std, rel=0.05), name


def test_qwen3_5_names_and_dtypes_are_those_of_the_hub(shared, tmp_path):
    import gzip

    with gzip.open(shared / "reference/tensors/Qwen3.5-122B-A10B.tensors.json.gz", "rt") as file:
        real = json.load(file)
    write_tiny_qwen3_5_moe(tmp_path, vision=True, mtp=False)
    mine = headers(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    depth, layers = config["vision_config"]["depth"], config["text_config"]["num_hidden_layers"]

    def kept(name: str) -> bool:
        parts = name.split(".")
        limit = {"blocks": depth, "layers": layers}
        return all(int(n) < limit[p] for p, n in pairwise(parts) if p in limit)

    assert mine.keys() == {name for name in real["tensors"] if kept(name)}
    for name, (dtype, shape) in mine.items():
        assert len(shape) == len(real["tensors"][name]), name
        assert dtype == ("F32" if name.endswith(tuple(real["f32"])) else "BF16"), name
    hub = json.loads((shared / "reference/configs/Qwen3.5-122B-A10B.json").read_text())
    assert config.keys() == hub.keys()
    for part in ("text_config", "vision_config"):
        assert config[part].keys() == hub[part].keys()


def test_the_tokenizer_gives_back_any_text(tiny_qwen):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen)
    for text in ("the time in Berne", "größer — 東京 🚆\n\ttabs", "{'a': [1, 2]}"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer) == SIZE
    assert [tokenizer.convert_tokens_to_ids(t) for t in token_ids()] == list(token_ids().values())


def test_the_chat_template_takes_tools_and_calls(tiny_qwen):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen)
    call = {"type": "function", "function": {"name": "clock", "arguments": {"city": "Berne"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "12:00"},
    ]
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]
    text = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
    assert "<function=clock>\n<parameter=city>\nBerne\n</parameter>\n</function>\n</tool_call>" in text
    assert text.index("Be brief.") < text.index("What time is it?") < text.index("<tool_response>\n12:00")
    assert text.endswith("<|im_start|>assistant\n<think>\n")


def test_every_width_takes_the_largest_group(tiny_any, tmp_path):
    from mlx_lm import convert
    from mlx_lm import load as load_model

    convert(str(tiny_any), str(tmp_path / "build"), quantize=True, q_bits=8, q_group_size=128)
    model, _ = load_model(str(tmp_path / "build"))
    assert [path for path, module in model.named_modules() if hasattr(module, "to_quantized")] == []


def test_the_benchmark_s_size_is_what_it_says():
    size = Size(layers=8, hidden=1024, experts=128, experts_per_token=8, inner=512)
    assert ARCHITECTURES["qwen3_5_moe"](size).nbytes == pytest.approx(3.3e9, rel=0.2)
    assert ARCHITECTURES["qwen3_moe"](size).nbytes == pytest.approx(3.3e9, rel=0.05)
    assert ARCHITECTURES["llama4"](size).nbytes == pytest.approx(3.3e9, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "8-bit"])
def test_every_checkpoint_converts_with_mlx_lm_and_runs(tiny_any, tmp_path, precision):
    from mlx_lm import convert
    from mlx_lm import load as load_model

    how = {"dtype": "float32"} if precision == "float32" else {"quantize": True, "q_bits": 8}
    convert(str(tiny_any), str(tmp_path / "build"), **how)
    model, _ = load_model(str(tmp_path / "build"))
    logits = model(mx.arange(24)[None]).astype(mx.float32)
    assert logits.shape == (1, 24, 512)
    assert mx.isfinite(logits).all()
    assert 0.5 < float(np.array(logits).std()) < 5


def test_a_vision_tower_comes_with_its_processor_file(tiny):
    folder = tiny("qwen3_5_moe_vision")
    assert (folder / "preprocessor_config.json").exists()
    assert any(name.startswith("model.visual.") for name in headers(folder))
    assert "vision_config" in json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(("word", "stored"), [("float16", "F16"), ("float32", "F32")])
def test_other_dtypes_are_written_throughout(tmp_path, word, stored):
    write_tiny_qwen3_5_moe(tmp_path, dtype=word)
    assert {dtype for dtype, _ in headers(tmp_path).values()} == {stored, "F32"}
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["dtype"] == word


def test_bfloat16_is_rounded_half_to_even_as_mlx_rounds(tmp_path):
    write(tmp_path, Blueprint({}, [Tensor("x", (4096,), 0.3, 0.1, "F32"), Tensor("y", (4096,), 0.3, 0.1)]))
    values = load(tmp_path)
    drawn = {float(v) for v in np.array(values["y"].astype(mx.float32))}
    write(tmp_path, Blueprint({}, [Tensor("y", (4096,), 0.3, 0.1, "F32")]))
    exact = load(tmp_path)["y"]
    assert drawn == {float(v) for v in np.array(exact.astype(mx.bfloat16).astype(mx.float32))}


def test_float8_codes_are_those_that_mlx_reads(tmp_path):
    write(tmp_path, Blueprint({}, [Tensor("x", (8192,), 100.0, dtype="F8_E4M3")]))
    values = np.array(mx.from_fp8(load(tmp_path)["x"], mx.float32))
    assert np.isfinite(values).all()
    assert values.std() == pytest.approx(100.0, rel=0.05)
    assert abs(values).max() <= 448


@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=40), shards=st.integers(1, 12))
def test_splitting_keeps_every_tensor_in_order(sizes, shards):
    tensors = [Tensor(f"t{i}", (n,), 1.0) for i, n in enumerate(sizes)]
    parts = split(tensors, shards)
    assert [t for part in parts for t in part] == tensors
    assert all(parts)
    assert len(parts) <= shards


@pytest.mark.slow
def test_a_large_checkpoint_is_written_in_little_memory(tmp_path):
    script = (
        "import sys; from pathlib import Path; from mlxquant.records.head import peak_memory\n"
        "from tests.checkpoints import write_tiny_qwen3_5_moe as w\n"
        "w(Path(sys.argv[1]), layers=4, hidden=512, experts=64, experts_per_token=4, moe_intermediate=512)\n"
        "print(peak_memory())"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True, env=env)
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) > 400_000_000
    assert int(run.stdout) < 120_000_000


def test_importing_the_writer_imports_nothing_heavy():
    script = (
        "import sys, tests.checkpoints; print(*sorted({'mlx', 'numpy', 'transformers', 'numba'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    assert run.stdout.strip() == ""


def test_write_tiny_takes_a_size(tmp_path):
    write_tiny(tmp_path, "qwen3_moe", Size(layers=1, experts=4), shards=1)
    assert sum(".experts." in name for name in headers(tmp_path)) == 4 * 3
