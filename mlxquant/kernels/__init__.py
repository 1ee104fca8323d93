"""Numbers for blocks of rows: quantize, measure what that cost, and turn stored bits back into numbers.

`rows` has the operations and says which arithmetic they do, `error_sums` what they sum, `encoder` the interface that
writing a build asks for, with rounding to nearest and the search for least squared error as its implementations.
`compiled` does the common formats on the CPU, `search` the search, `gptq` what makes up for errors under moments of the
inputs, `mlx` the rest. Nothing here reads, writes, or chooses a format.
"""

from .encoder import (
    ByModule,
    CalibratedEncoder,
    ColumnWeights,
    Encoder,
    InputCounts,
    PreparedEncoder,
    Rounding,
    Rows,
    Searching,
)
from .error_sums import ErrorSums, merged_sums
from .rows import (
    BlockFault,
    Quantized,
    dequantize_rows,
    has_fast_path,
    levels_of,
    measure_rows,
    pack_levels,
    quantize_rows,
)

__all__ = [
    "BlockFault",
    "ByModule",
    "CalibratedEncoder",
    "ColumnWeights",
    "Encoder",
    "ErrorSums",
    "InputCounts",
    "PreparedEncoder",
    "Quantized",
    "Rounding",
    "Rows",
    "Searching",
    "dequantize_rows",
    "gptq",
    "has_fast_path",
    "levels_of",
    "measure_rows",
    "merged_sums",
    "mlx",
    "pack_levels",
    "quantize_rows",
]
