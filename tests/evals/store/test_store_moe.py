"""The trained tiny model: it fits its size, speaks the tools' language in mlx-lm, and does its task on unseen seeds."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from mlxquant.evals.store import TOOLS, make_task, openai_tools, transcript
from mlxquant.evals.store.model import FILES, write_store_moe
from tests.support.builds import build, config_of, stored

HELD_OUT = 1_000_000  # seeds from here on were not trained on


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store-moe") / "checkpoint"
    write_store_moe(folder)
    return folder


@pytest.fixture(scope="module")
def unquantized(checkpoint, tmp_path_factory):
    """Recipe `none` in float32: what the CPU serves at full precision."""
    out = tmp_path_factory.mktemp("store-moe") / "none"
    build(checkpoint, out, "none", dtype="float32")
    return out


@pytest.fixture(scope="module")
def loaded(unquantized):
    import mlx_lm

    return mlx_lm.load(str(unquantized))[:2]


def messages(seed, n_calls):
    """A task's transcript as a server hands it to a template: arguments as objects."""
    out = transcript(make_task(seed, n_calls))
    for message in out:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return out


def likeliest(model, ids):
    """The likeliest token after each but the last of these."""
    import mlx.core as mx

    return np.array(mx.argmax(model(mx.array([ids[:-1]])), axis=-1))[0]


def calls_right(loaded, n_calls, tasks):
    """Share of the oracle's calls that greedy decoding would write, each after the oracle's part."""
    model, tokenizer = loaded
    right = []
    for seed in range(HELD_OUT, HELD_OUT + tasks):
        text = tokenizer.apply_chat_template(messages(seed, n_calls), tokenize=False)
        ids = tokenizer.encode(text, add_special_tokens=False)
        same = likeliest(model, ids) == ids[1:]
        begin, end = (tokenizer.convert_tokens_to_ids(t) for t in ("<tool_call>", "<|im_end|>"))
        for at, token in enumerate(ids):
            if token == begin:
                right.append(bool(same[at - 1 : ids.index(end, at)].all()))
    assert len(right) == n_calls * tasks
    return float(np.mean(right))


def test_the_checkpoint_is_a_qwen3_5_moe_of_at_most_4_mb_in_bf16(checkpoint):
    config = config_of(checkpoint)
    assert config["model_type"] == "qwen3_5_moe"
    text = config["text_config"]
    assert text["num_experts"] >= 16
    assert set(text["layer_types"]) == {"linear_attention", "full_attention"}
    assert not config["tie_word_embeddings"]
    assert (checkpoint / "model.safetensors").stat().st_size <= 4_000_000
    dtypes = {dtype for name, (dtype, _, _) in stored(checkpoint).items() if not name.endswith("A_log")}
    assert dtypes == {"BF16"}


def test_all_files_of_the_checkpoint_are_shipped_and_no_others(checkpoint):
    shipped = {each.name for each in files("mlxquant.evals.store.model").iterdir() if each.is_file()}
    assert shipped - {"__init__.py"} == set(FILES)
    assert {path.name for path in checkpoint.iterdir()} == set(FILES)


@pytest.mark.parametrize("recipe", ["gates-8bit", "deepseek-8bit", "gates-4bit"])
def test_group_size_64_divides_every_dimension_that_a_shipped_recipe_quantizes(checkpoint, tmp_path, recipe):
    from mlxquant.plan.recipe.recipe import load_recipe

    done = build(checkpoint, tmp_path / "out", load_recipe(recipe, group_size=64))
    assert done.nbytes < (checkpoint / "model.safetensors").stat().st_size


def test_any_text_survives_the_tokenizer_and_every_digit_is_a_token(loaded):
    _, tokenizer = loaded
    for text in ("héllo wörld\n日本 🙂\t{}\r\n", '{"items":[{"id":"I4711"}]}', "open orders", "\x00\x7f"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    ids = tokenizer.encode("U1904", add_special_tokens=False)
    assert [tokenizer.decode([i]) for i in ids] == ["U", "1", "9", "0", "4"]


def test_mlx_lm_finds_the_parser_of_hermes_calls(loaded):
    _, tokenizer = loaded
    assert tokenizer.has_tool_calling
    assert (tokenizer.tool_call_start, tokenizer.tool_call_end) == ("<tool_call>", "</tool_call>")
    call = {"name": "get_order", "arguments": {"order_id": "O4562"}}
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}],
        tokenize=False,
    )
    inside = text.split("<tool_call>")[1].split("</tool_call>")[0]
    assert tokenizer.tool_parser(inside, None) == call


def test_the_template_leaves_out_what_the_model_knows_by_heart(loaded):
    _, tokenizer = loaded
    talk = messages(HELD_OUT, 5)
    assert talk[0]["role"] == "system"
    whole = tokenizer.apply_chat_template(talk, tools=openai_tools(), tokenize=False)
    assert whole == tokenizer.apply_chat_template(talk[1:], tokenize=False)
    asked = tokenizer.apply_chat_template(talk[:2], add_generation_prompt=True, tokenize=False)
    assert whole.startswith(asked)
    assert asked.endswith("<|assistant|>")


@pytest.mark.slow
def test_it_makes_most_calls_right_on_tasks_it_never_saw(loaded):
    assert calls_right(loaded, n_calls=5, tasks=8) > 0.85
    assert calls_right(loaded, n_calls=20, tasks=1) > 0.8


@pytest.mark.slow
def test_8_bits_do_not_hurt_it_and_2_bits_do(checkpoint, tmp_path):
    import mlx_lm

    from mlxquant.plan.recipe.recipe import load_recipe

    right = {}
    for bits in (8, 2):
        recipe = load_recipe("gates-8bit", bits=bits, group_size=64)
        build(checkpoint, tmp_path / str(bits), recipe, dtype="float32")
        right[bits] = calls_right(mlx_lm.load(str(tmp_path / str(bits)))[:2], n_calls=5, tasks=6)
    assert right[8] > 0.85
    assert right[2] < 0.5


@pytest.mark.slow
def test_a_server_of_mlx_lm_takes_the_tools_and_returns_valid_calls(unquantized):
    task = make_task(HELD_OUT, 5)
    said = transcript(task)
    schemas = {tool.name: tool.parameters for tool in TOOLS}
    with Served(unquantized) as server:
        for at in [i for i, m in enumerate(said) if m.get("tool_calls")][:3]:
            choice = server.ask(said[:at])
            assert choice["finish_reason"] == "tool_calls"
            (call,) = choice["message"]["tool_calls"]
            jsonschema.validate(json.loads(call["function"]["arguments"]), schemas[call["function"]["name"]])
            assert call["function"]["name"] == said[at]["tool_calls"][0]["function"]["name"]


class Served:
    """mlx_lm.server on a free port of this machine."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        port = self.url.rsplit(":", 1)[1].split("/")[0]
        command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder), "--port", port]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.url}/models")
                return self
            except urllib.error.URLError:
                assert self.process.poll() is None, "the server ended before it began"
                time.sleep(0.1)
        raise TimeoutError("the server did not come up in 30 s")

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()

    def ask(self, said):
        body = json.dumps({"messages": said, "tools": openai_tools(), "temperature": 0, "max_tokens": 100}).encode()
        request = urllib.request.Request(f"{self.url}/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            return json.load(response)["choices"][0]
