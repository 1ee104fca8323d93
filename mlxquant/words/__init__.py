"""Words and small tools that every other package uses: formats and dtypes, roles and modules, layers, units, text.

    formats     dtypes of safetensors files, quantized formats of mlx
    modules     what a model is made of: roles, arrays, modules
    layers      ranges of layers, as recipes write them
    units       sizes and counts, read and written
    text        paragraphs, tables, lists, figures, names cut to fit
    lm_studio   which library LM Studio loads a build through
    progress    the event that long operations report
    blas        how many threads numpy's and scipy's BLAS computes with
    secrets, strict_json, interrupts, jit

It imports nothing of mlxquant but `errors`, and neither numpy nor mlx when it is imported.
"""

__all__ = [
    "blas",
    "formats",
    "interrupts",
    "jit",
    "layers",
    "lm_studio",
    "modules",
    "progress",
    "secrets",
    "strict_json",
    "text",
    "units",
]
