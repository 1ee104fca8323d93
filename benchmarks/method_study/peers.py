"""mlx-lm's own gptq, awq, dwq and dynamic_quant on a checkpoint, with the bytes and documents that ours have.

    python benchmarks/method_study/peers.py gptq SOURCE DATA STUDENT OUT --bits 4 --group-size 64

What differs from the tools' own command lines, which on a Linux CPU end with `[GatherMM::eval] Currently only supports
float32` for a mixture of experts in bf16:

    computing    the model is cast to float32; what is stored is cast to bf16, as the tools do
    documents    those of DATA, in rows of 512 tokens (gptq, dynamic_quant) or one by one (dwq)
    routers      what `gates-8bit` keeps is hidden from the tools, so that it stays as in our builds
    gptq         the fallback, which the embedding gets, has the same bits and group
    dwq          begins with our rounded build (STUDENT), as `--quantized-model` does; `dwq@1e-4` learns at that rate
    dynamic_quant  bits one below and one above, by the target that gives at most the bytes of our uniform build
"""

from __future__ import annotations

import argparse
import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.quant import awq, dwq, dynamic_quant, gptq
from mlx_lm.utils import compute_bits_per_weight, load_model, quantize_model, save_config, save_model

from mlxquant.divergence.texts.documents import read_documents
from mlxquant.divergence.texts.tokens import open_tokenizer
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.variation import load_variation
from mlxquant.source.checkpoint import open_checkpoint

ROW, SEED, STEP = 512, 123, 0.01
# dwq's own defaults are 2048 samples at a rate of 1e-6 and batches of 4; with the few documents here, several passes at
# a higher rate go about as far
PASSES, BATCH = 3, 1
TOOLS = ("gptq", "awq", "dwq", "dynamic_quant")


class Kept(nn.Module):
    """A linear module that no tool takes for one."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight.T


def opened(source: Path, kept: list[str], dtype: mx.Dtype) -> tuple[nn.Module, dict[str, Any]]:
    """The model as mlx-lm loads it, its routers hidden."""
    model, config = load_model(source, lazy=True)
    linear = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    model.update_modules(tree_unflatten([(path, Kept(linear[path])) for path in kept if path in linear]))
    model.set_dtype(dtype)
    return model, config


def run(
    tool: str, rate: float, source: Path, data: Path, student: Path, bits: int, group: int
) -> tuple[nn.Module, dict[str, Any]]:
    """The model as a tool leaves it, and its config."""
    checkpoint = open_checkpoint(source)
    recipe = load_variation(f"gates-8bit:bits={bits},group_size={group}")
    plan = make_plan(read_layout(checkpoint), recipe, checkpoint)
    kept = [p.module.path for p in plan.modules if p.format is None]
    documents = [d.tokens for d in read_documents(data, open_tokenizer(checkpoint)).documents]
    tokens = np.concatenate(documents)
    rows = mx.array(tokens[: len(tokens) // ROW * ROW].reshape(-1, ROW))
    mx.random.seed(SEED)
    np.random.seed(SEED)
    model, config = opened(source, kept, mx.float32)
    if tool == "gptq":
        model, config["quantization"] = gptq.gptq_quantize(model, rows, bits, group, bits, group)
    elif tool == "awq":
        if (known := awq.AWQ_MODEL_CONFIGS.get(config["model_type"])) is None:
            raise NotImplementedError(f"AWQ support for {config['model_type']} models NYI.")
        awq.awq_quantize(model, rows, known, group, bits, group, bits)
        config = awq.update_config(model, config)
    elif tool == "dwq":
        examples = [(d.tolist(), 0) for d in documents]
        model, config = distilled(model, student, examples, rate)
    else:
        model, config = by_sensitivity(model, source, kept, rows, float(plan.totals["bpw"]), bits, group)
    return model, config


def distilled(teacher: nn.Module, student: Path, examples: list[Any], rate: float) -> tuple[nn.Module, dict[str, Any]]:
    """The rounded build with scales and biases trained towards the teacher's logits."""
    model, config = load_model(student, lazy=True)
    model.set_dtype(mx.float32)
    optimizer = mlx.optimizers.Adam(learning_rate=rate, bias_correction=True)
    longest = max(len(tokens) for tokens, _ in examples) + 1
    for number in range(PASSES):
        dwq.dwq_quantize(
            model, lambda batch, idx, split: teacher(batch), optimizer, examples, examples[:1], BATCH, longest,
            SEED + number, dtype=mx.float32,
        )  # fmt: skip
    return model, config


def by_sensitivity(
    model: nn.Module, source: Path, kept: list[str], rows: mx.array, target_bpw: float, bits: int, group: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Bits by module: those most sensitive get one more than `bits`, the others one less, to `target_bpw`."""
    high = {"bits": bits + 1, "group_size": group}
    if bits - 1 < 2:
        raise ValueError(f"mlx-lm quantizes to 2 bits at least; a mean of {bits} bits leaves nothing to choose")
    sensitivities = dict(dynamic_quant.estimate_sensitivities(model, rows, bits - 1, group, bits + 1, group))
    plain, config = opened(source, kept, mx.bfloat16)

    def sized(target: float) -> tuple[nn.Module, dict[str, Any]]:
        limits = (bits - 1, group, bits + 1, group)
        threshold = dynamic_quant.estimate_threshold(plain, sensitivities, target, *limits)

        def predicate(path: str, module: nn.Module) -> bool | dict[str, int]:
            return high if hasattr(module, "to_quantized") and sensitivities[path] > threshold else True

        return quantize_model(copy.deepcopy(plain), config, group, bits - 1, quant_predicate=predicate)

    target = target_bpw  # the tool may end a module above its target; ours must not have fewer bytes
    while compute_bits_per_weight((result := sized(target))[0]) > target_bpw:
        target -= STEP
    return result


def main() -> None:
    """Run one tool; OUT appears when it is whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", help=f"one of {', '.join(TOOLS)}; of dwq with its rate, as dwq@1e-5")
    for name in ("source", "data", "student", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--group-size", type=int, required=True)
    chosen = parser.parse_args()
    tool, _, rate = chosen.tool.partition("@")
    if tool not in TOOLS:
        parser.error(f"{tool}: none of {', '.join(TOOLS)}")
    mx.set_default_device(mx.cpu)
    model, config = run(
        tool, float(rate or 1e-6), chosen.source, chosen.data, chosen.student, chosen.bits, chosen.group_size
    )
    model.set_dtype(mx.bfloat16)
    with tempfile.TemporaryDirectory(dir=chosen.out.parent) as folder:
        out = Path(folder) / "build"
        save_model(out, model)
        save_config(config, out / "config.json")
        for file in chosen.source.iterdir():
            if file.suffix != ".safetensors" and file.name not in ("config.json", "README.md"):
                shutil.copyfile(file, out / file.name)
        out.rename(chosen.out)


if __name__ == "__main__":
    main()
