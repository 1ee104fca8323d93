"""The numbers behind stored codes: tables by byte, and rounding to the dtypes of weights.

A table has a row for each of the 256 bytes, and in it the values that a byte holds, the lowest bits first:

    INTEGERS[4][0xA7] == (-1, 2)     two 4-bit integers, stored with 8 added: 7 - 8 and 10 - 8
    E2M1[0xA7]        == (6, -1)     two 4-bit floats: 0 111 and 1 010
    E4M3[0x3C]        == (1.5,)      one 8-bit float
    E8M0[0x7F]        == (1,)        a power of two: 2^(127 - 127)

Formats: OCP Microscaling 1.0 and OFP8, as torch and compressed-tensors have them. Packed integers of 2, 4 and 8 bits
lie in int32 words from the lowest bit up (compressed-tensors 0.20.1, `pack_to_int32`), which in little-endian files is
the same as bytes from the lowest bits up. Nothing is read here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...words.formats import carrier, widen

Table = NDArray[np.float32]
_QUIET_NAN = np.uint16(0x7FC0)
_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


@cache
def table_of(coding: str) -> Table:
    """The table of a coding, (256, values in a byte): int2, int4, int8 (offset), i8 (two's complement), e2m1, …"""
    codes = np.arange(256, dtype=np.uint8)
    match coding:
        case "int2" | "int4" | "int8":
            bits = int(coding[3:])
            shifts = np.arange(0, 8, bits, dtype=np.uint8)
            fields = (codes[:, None] >> shifts) & np.uint8((1 << bits) - 1)
            return fields.astype(np.float32) - np.float32(1 << (bits - 1))
        case "i8":
            return codes.view(np.int8).astype(np.float32)[:, None]
        case "e2m1":
            fields = np.stack([codes & 15, codes >> 4], axis=-1)
            return _FP4.take(fields)
        case "e4m3":
            return _e4m3(codes)[:, None]
        case "e8m0":
            powers = widen(np.minimum(codes, np.uint8(254)), "F8_E8M0")
            powers[255] = np.nan
            return powers[:, None]
    raise AssertionError(f"no table of {coding}")


def _e4m3(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """OFP8 E4M3 without infinities: exponent bias 7, 0x7F and 0xFF are NaN."""
    exponent, mantissa = (codes.astype(np.int32) >> 3) & 15, (codes & 7).astype(np.float32)
    size = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(1 + mantissa / 8, exponent - 7))
    size[(codes & 0x7F) == 0x7F] = np.nan
    return np.where(codes & 0x80, -size, size).astype(np.float32)


def rounded(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Round values to BF16, F16 or F32, half to even, and give them as float32 again."""
    if dtype == "F32":
        return values
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    return (bfloat16_bits(values).astype(np.uint32) << np.uint32(16)).view(np.float32)


def put(values: NDArray[np.float32], dtype: str, out: NDArray[Any]) -> None:
    """Set `out`, an array of the dtype's carrier, to values rounded to BF16, F16 or F32."""
    assert out.dtype == carrier(dtype), f"{dtype} is held by {carrier(dtype)}, not {out.dtype}"
    if dtype == "BF16":
        out[...] = bfloat16_bits(values)
    else:
        with np.errstate(over="ignore"):
            out[...] = values


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of values rounded to bfloat16, half to even; NaN is the one quiet NaN."""
    words = np.ascontiguousarray(values).view(np.uint32)
    bits = words >> np.uint32(16)
    bits &= np.uint32(1)
    bits += np.uint32(0x7FFF)
    bits += words
    bits >>= np.uint32(16)
    out = bits.astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        out[nan] = _QUIET_NAN
    return out
