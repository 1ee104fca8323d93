"""Quantized sources: which of them can be read, why others are refused, and the values of packed tensors as floats.

A quantized source declares a *scheme* in its config. Its weights are not one tensor but several: packed integers or
8-bit floats, and the scales that turn them into numbers. Here each such set becomes one `Decoded` tensor, which claims
to be a plain float tensor under the weight's name; its values are computed when they are read, only those that are
asked for. So it is done below mlx-lm's `sanitize`, which sees float weights only.

    declared             what a config, or ModelOpt's file beside it, says of quantization
    decoded              Decoded, the tensor whose values are computed from others
    grouped              the one that serves most formats: codes, scales of groups or blocks, zero points
    numbers, shapes      tables of codes, rounding; the grids that scales make
    families             the registry: one row a family of formats; what is read and what is refused, by name
    fp8                  E4M3 with block scales, as DeepSeek, Qwen and Mistral store it
    compressed_tensors   what llm-compressor writes: int4, int8, FP8, NVFP4, MXFP4
    modelopt             NVIDIA's FP8, NVFP4 and MX formats
    mlx_builds           MLX builds: what mlx quantized
    gptq, transposed     GPTQ and AWQ: (in, out) in words of 32 bits
    as_stored            the packed tensors whose bits mlx can use as they are

A new format is a module that makes `Decoded` tensors and a row in `families`. What this package does not do: quantize,
or know of MLX modules and arrays (see `layout`).
"""

from .as_stored import AsStored, as_stored
from .declared import MLX, MODELOPT, Declared, quantization_of, with_modelopt
from .decoded import Decoded
from .families import (
    check_config,
    check_names,
    declared_storage,
    decoded_tensors,
    ignored_names,
    notes_of,
    quantizes_weights,
)

__all__ = [
    "MLX",
    "MODELOPT",
    "AsStored",
    "Declared",
    "Decoded",
    "as_stored",
    "check_config",
    "check_names",
    "declared_storage",
    "decoded_tensors",
    "fp8",
    "ignored_names",
    "notes_of",
    "quantization_of",
    "quantizes_weights",
    "with_modelopt",
]
