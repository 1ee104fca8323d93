"""Pack a bf16 checkpoint with the producers' own libraries, and dequantize it with their own code.

Runs in an environment of its own, with torch (CPU), safetensors, compressed-tensors and nvidia-modelopt; mlxquant is
not needed there. For each format FOLDER/NAME/packed is the packed checkpoint and FOLDER/NAME/meant the bf16 one of the
values that the library's code makes of it; FOLDER/producers.json names the versions. Weights are rounded to nearest,
without calibration: what is looked at is how they are stored and read, not how good they are.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
LINEAR = re.compile(r"layers\.\d+\..*_proj\.weight$")
IGNORE = ["lm_head", "re:.*mlp.gate$"]
# name -> format of compressed-tensors, settings of the weights
COMPRESSED: dict[str, tuple[str, dict[str, Any]]] = {
    "int4-g32": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}),
    "int4-g32-zeros": (
        "pack-quantized",
        {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False},
    ),
    "int4-channel": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "channel"}),
    "int4-channel-zeros": (
        "pack-quantized",
        {"num_bits": 4, "type": "int", "strategy": "channel", "symmetric": False},
    ),
    "int8-g32": ("pack-quantized", {"num_bits": 8, "type": "int", "strategy": "group", "group_size": 32}),
    "int8-channel-zeros": (
        "pack-quantized",
        {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False},
    ),
    "int2-g32": ("pack-quantized", {"num_bits": 2, "type": "int", "strategy": "group", "group_size": 32}),
    "int-quantized": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
    "int-quantized-zeros": (
        "int-quantized",
        {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False},
    ),
    "float-quantized-tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "float-quantized-channel": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "float-quantized-block": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 48]},
    ),
    "naive-quantized": ("naive-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "nvfp4": (
        "nvfp4-pack-quantized",
        {
            "num_bits": 4,
            "type": "float",
            "strategy": "tensor_group",
            "group_size": 16,
            "scale_dtype": "torch.float8_e4m3fn",
        },
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"},
    ),
    "mxfp8": (
        "mxfp8-quantized",
        {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"},
    ),
}


def compressed(packing: str, settings: dict[str, Any]) -> tuple[dict[str, Any], Callable[[torch.Tensor], Any]]:
    """The config of a format of compressed-tensors, and what packs and dequantizes one weight."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    arguments = QuantizationArgs(**settings)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments, format=packing)
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, format=packing, quantization_status="compressed", ignore=IGNORE
    )
    compressor = BaseCompressor.get_value_from_registry(packing)

    def pack(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        least, most = ranges(weight, arguments)
        whole = None
        if packing.startswith("nvfp4"):
            whole = generate_gparam(weight.min().reshape(1), weight.max().reshape(1))
        scale, zero = calculate_qparams(least, most, arguments, global_scale=whole)
        state: Tensors = {"weight": weight, "weight_scale": scale}
        state |= {"weight_zero_point": zero} if not arguments.symmetric else {}
        state |= {"weight_global_scale": whole} if whole is not None else {}
        parts = compressor.compress(state, scheme)
        return parts, compressor.decompress(dict(parts), scheme)["weight"]

    return config.model_dump(mode="json"), pack


def ranges(weight: torch.Tensor, arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and greatest value of all that share a scale."""
    rows, width = weight.shape
    match arguments.strategy:
        case "tensor":
            return weight.min().reshape(1), weight.max().reshape(1)
        case "channel":
            return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
        case "block":
            height, across = arguments.block_structure
            padded = torch.nn.functional.pad(weight, (0, -width % across, 0, -rows % height))
            tiles = padded.reshape(padded.shape[0] // height, height, padded.shape[1] // across, across)
            return tiles.amin((1, 3)), tiles.amax((1, 3))
    groups = weight.reshape(rows, -1, arguments.group_size)
    return groups.amin(-1), groups.amax(-1)


def modelopt(algorithm: str) -> tuple[dict[str, Any], Callable[[torch.Tensor], Any]]:
    """The config of an algorithm of ModelOpt, and what packs and dequantizes one weight."""
    from modelopt.torch.export.quant_utils import to_quantized_weight
    from modelopt.torch.quantization.qtensor import FP8QTensor, MXFP8QTensor, NVFP4QTensor

    def fp8(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        scale = weight.abs().max().float() / 448
        codes = to_quantized_weight(weight, scale, "fp8")
        read = FP8QTensor(weight.shape, weight.dtype, codes).dequantize(torch.bfloat16, scale=scale)
        return {"weight": codes, "weight_scale": scale, "input_scale": torch.tensor(1.0)}, read

    def nvfp4(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        packed, scale, whole = NVFP4QTensor.quantize(weight, 16)
        read = packed.dequantize(torch.bfloat16, scale=scale, double_scale=whole, block_sizes={-1: 16})
        return {"weight": packed._quantized_data, "weight_scale": scale, "weight_scale_2": whole}, read

    def mxfp8(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        packed, scale = MXFP8QTensor.quantize(weight)
        return {"weight": packed._quantized_data, "weight_scale": scale}, packed.dequantize(torch.bfloat16, scale=scale)

    settings = {"quant_algo": algorithm, "exclude_modules": ["lm_head", "*mlp.gate"]}
    by_name = {"FP8": fp8, "NVFP4": nvfp4, "MXFP8": mxfp8}
    return {"producer": {"name": "modelopt"}, "quant_method": "modelopt", **settings}, by_name[algorithm]


def write(
    source: Path, folder: Path, config: dict[str, Any], pack: Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]
) -> None:
    """Write a packed checkpoint and the bf16 one of its values."""
    tensors: Tensors = {}
    for shard in sorted(source.glob("*.safetensors")):
        tensors |= load_file(shard)
    packed, meant = Tensors(), Tensors()
    for name, tensor in tensors.items():
        if not LINEAR.search(name):
            packed[name] = meant[name] = tensor
            continue
        parts, values = pack(tensor)
        packed |= {name.removesuffix("weight") + part: value.contiguous() for part, value in parts.items()}
        meant[name] = values.to(torch.bfloat16).contiguous()
    plain = json.loads((source / "config.json").read_text())
    for side, held, own in (("packed", packed, {**plain, "quantization_config": config}), ("meant", meant, plain)):
        out = folder / side
        out.mkdir(parents=True)
        for file in source.iterdir():
            if file.suffix != ".safetensors" and file.name not in ("config.json", "model.safetensors.index.json"):
                shutil.copy(file, out)
        (out / "config.json").write_text(json.dumps(own))
        save_file(held, out / "model.safetensors", metadata={"format": "pt"})


def installed(package: str) -> str | None:
    """The version of a package, None where it is not there."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


def main(source: Path, folder: Path) -> None:
    """Pack SOURCE in every format whose library is here."""
    torch.manual_seed(0)
    producers: dict[str, str] = {}
    if (library := installed("compressed-tensors")) is not None:
        for name, (packing, settings) in COMPRESSED.items():
            write(source, folder / name, *compressed(packing, settings))
            producers[name] = library
    if (library := installed("nvidia-modelopt")) is not None:
        for algorithm in ("FP8", "NVFP4", "MXFP8"):
            name = f"modelopt-{algorithm.lower()}"
            write(source, folder / name, *modelopt(algorithm))
            producers[name] = library
    (folder / "producers.json").write_text(json.dumps({"torch": torch.__version__, "formats": producers}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
