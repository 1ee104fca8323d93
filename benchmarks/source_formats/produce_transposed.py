"""Pack a bf16 checkpoint as GPTQ and AWQ with their own libraries, and dequantize it with their own code.

Runs in an environment of its own, with torch (CPU), safetensors, gptqmodel and autoawq; mlxquant is not needed there.
For each format FOLDER/NAME/packed is the packed checkpoint and FOLDER/NAME/meant the bf16 one of the values that the
library's code makes of it; FOLDER/producers.json names the versions. Weights are rounded to nearest, without
calibration: what is looked at is how they are stored and read.

GPTQModel packs and dequantizes itself (`pack_original`, `dequantize_weight`, and its conversion of zero points to v1).
AutoAWQ's module packs on a GPU only, so words are filled here in the order that its `packing_utils` has, and
dequantized by `dequantize_gemm` of that file.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from produce import Tensors, write  # beside this script

Pack = Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]
# name -> bits, group size, symmetric, act-order, checkpoint_format
GPTQ: dict[str, tuple[int, int, bool, bool, str]] = {
    "gptq-2bit-g64": (2, 64, True, False, "gptq"),
    "gptq-3bit-g64": (3, 64, False, False, "gptq"),
    "gptq-3bit-g64-v2": (3, 64, False, False, "gptq_v2"),
    "gptq-4bit-g128": (4, 128, True, False, "gptq"),
    "gptq-4bit-g32-act-order": (4, 32, False, True, "gptq"),
    "gptq-4bit-g64-v2": (4, 64, False, False, "gptq_v2"),
    "gptq-8bit-channel": (8, -1, True, False, "gptq"),
}
AWQ: dict[str, tuple[int, bool]] = {"awq-gemm-g64": (64, False), "awq-gemm-g128": (128, True)}


def grid(weight: torch.Tensor, bits: int, groups: torch.Tensor, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points (out, groups) of the inputs' groups; zero points are 1 or more, as v1 can store them."""
    top, columns = (1 << bits) - 1, [weight[:, groups == g].float() for g in range(int(groups.max()) + 1)]
    if symmetric:
        scales = torch.stack([c.abs().amax(1) * 2 / top for c in columns], 1)
        return scales.half(), torch.full(scales.shape, 1 << (bits - 1))
    low, high = (torch.stack([f(c, 1) for c in columns], 1) for f in (torch.amin, torch.amax))
    scales = ((high - low) / top).half()
    return scales, (-low / scales.float()).round().clamp(1, top).to(torch.int32)


def gptq(bits: int, size: int, symmetric: bool, act_order: bool, form: str) -> tuple[dict[str, Any], Pack]:
    """The config of a format of GPTQ, and what packs and dequantizes one weight."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization.config import FORMAT, METHOD, QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    def pack(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        out, width = weight.shape
        groups = torch.arange(width) // (width if size == -1 else size)
        if act_order:
            groups = groups[torch.randperm(width)]
        scales, zeros = grid(weight, bits, groups, symmetric)
        linear = torch.nn.Linear(width, out, bias=False)
        linear.weight.data = weight.float()
        packed = TorchLinear(bits, size, symmetric, act_order, width, out)
        packed.pack_original(linear, scales.float(), zeros.float(), groups.to(torch.int32))
        packed.post_init()
        values = packed.dequantize_weight().T.contiguous()
        if form == "gptq":
            config = QuantizeConfig(
                bits=bits, group_size=size, sym=symmetric, quant_method=METHOD.GPTQ, format=FORMAT.GPTQ
            )
            convert_gptq_v2_to_v1_format_module(packed, config)
        parts = {name: getattr(packed, name).detach().clone() for name in ("qweight", "qzeros", "scales", "g_idx")}
        return parts, values

    settings = {"bits": bits, "group_size": size, "sym": symmetric, "desc_act": act_order, "checkpoint_format": form}
    return {"quant_method": "gptq", **settings}, pack


def awq(size: int, symmetric: bool) -> tuple[dict[str, Any], Pack]:
    """The config of AWQ's packing gemm, and what packs and dequantizes one weight."""
    spec = importlib.util.find_spec("awq")
    assert spec is not None and spec.origin is not None, "autoawq is not installed"
    path = Path(spec.origin).parent / "utils" / "packing_utils.py"  # without the package, which wants a GPU's packages
    file = importlib.util.spec_from_file_location("packing_utils", path)
    assert file is not None and file.loader is not None
    utils = importlib.util.module_from_spec(file)
    file.loader.exec_module(utils)

    def words(codes: torch.Tensor) -> torch.Tensor:
        fields = codes.reshape(len(codes), -1, 8)[:, :, utils.AWQ_ORDER].to(torch.int64)
        packed = (fields << (4 * torch.arange(8))).sum(-1)
        return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)

    def pack(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        groups = torch.arange(weight.shape[1]) // size
        scales, zeros = (part.T.contiguous() for part in grid(weight, 4, groups, symmetric))
        codes = (weight.T.float() / scales.float()[groups] + zeros[groups]).round().clamp(0, 15).to(torch.int32)
        parts = {"qweight": words(codes), "qzeros": words(zeros), "scales": scales}
        values = utils.dequantize_gemm(parts["qweight"], parts["qzeros"], scales, 4, size)
        return parts, values.T.contiguous()

    settings = {"bits": 4, "group_size": size, "version": "gemm", "zero_point": not symmetric}
    return {"quant_method": "awq", **settings}, pack


def main(source: Path, folder: Path) -> None:
    """Pack SOURCE in every format."""
    torch.manual_seed(0)
    producers: dict[str, str] = {}
    for name, settings in GPTQ.items():
        write(source, folder / name, *gptq(*settings))
        producers[name] = f"gptqmodel {version('gptqmodel')}"
    for name, (size, symmetric) in AWQ.items():
        write(source, folder / name, *awq(size, symmetric))
        producers[name] = f"autoawq {version('autoawq')}"
    made = {"formats": producers, "torch": torch.__version__}
    (folder / "producers.json").write_text(json.dumps(made, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
