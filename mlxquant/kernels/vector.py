"""The vector code of the row kernels, in LLVM's own words; `kernels_numba` builds the kernels from it.

Three things are written so because numba's scalar loops do not become them: the ends of a group, the quantization
of its values, and the sums of their errors. Values go in pairs: one 32-bit word of BF16 is two weights, the even one
shifted up, the odd one masked, so nothing is shuffled on the way in, and one multiply-add joins them on the way out.

Why the bytes are mlx's:
- In a group of two signs the largest bits as signed integers are the largest value, as unsigned the smallest. NaN
  and infinity have larger bits than all others, so the same two tell of them; such rows are flagged, left to mlx.
- Division is IEEE float32 division. Rounding half to even is the addition of 1.5·2²³, exact for |y| < 2²²; y is
  below 2·bins + 1, and its low byte is then q itself.
- q needs no lower clip: `bias` is the end of the group that `scale` points away from, so y >= 0; where bias is 0,
  |y| <= 0.5.

Sums are the same on every machine with fused multiply-add: 16 even, 16 odd lanes, float32 over `_FLUSH` values, then
float64, folded by halves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BF16, F16, F32 = 0, 1, 2
DTYPES = {"BF16": BF16, "F16": F16, "F32": F32}
QUANTIZE, QUANTIZE_AND_SUM, MEASURE, DEQUANTIZE = 0, 1, 2, 3
# rows of a row's parameters: the scale that divides, the bias, the scale as stored, 1 / range
SCALE, BIAS, STORED, INVERSE = 0, 1, 2, 3

_LANES, _FLUSH, _MAGIC = 16, 512, 12582912.0  # the last is 1.5 * 2**23
_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()
_BYTE, _WORD, _QUAD = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_VF, _VD, _VI = (ir.VectorType(t, _LANES) for t in (_FLOAT, _DOUBLE, _WORD))
ITEM = (2, 2, 4)


def _splat(b: Any, value: Any) -> Any:
    """One scalar, or a Python number, in every lane."""
    if isinstance(value, (int, float)):
        return ir.Constant(_VF if isinstance(value, float) else _VI, [value] * _LANES)
    first = b.insert_element(ir.Constant(ir.VectorType(value.type, _LANES), ir.Undefined), value, _WORD(0))
    return b.shuffle_vector(first, first, ir.Constant(_VI, [0] * _LANES))


def _load(b: Any, address: Any, ty: Any, align: int) -> Any:
    value = b.load(b.inttoptr(address, ty.as_pointer()))
    value.align = align
    return value


def _store(b: Any, value: Any, address: Any, align: int) -> None:
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = align


def _call(b: Any, name: str, ty: Any, *args: Any) -> Any:
    fn = ir.FunctionType(ty, [a.type for a in args])
    return b.call(cgutils.get_or_insert_function(b.module, fn, name), args)


def _larger(b: Any, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def _halves(b: Any, v: Any, join: Callable[[Any, Any], Any]) -> Any:
    """Fold a vector to one value by halves, so that every machine adds in the same order."""
    n = v.type.count
    while n > 1:
        n //= 2
        low, high = (ir.Constant(ir.VectorType(_WORD, n), list(range(i, i + n))) for i in (0, n))
        v = join(b.shuffle_vector(v, v, low), b.shuffle_vector(v, v, high))
    return b.extract_element(v, _WORD(0))


def _load_pair(b: Any, address: Any, kind: int) -> list[Any]:
    """Read 32 stored values as float32: the 16 even ones and the 16 odd ones."""
    if kind == F32:
        both = _load(b, address, ir.VectorType(_FLOAT, 2 * _LANES), 1)
        return [_pick(b, both, list(range(i, 2 * _LANES, 2))) for i in (0, 1)]
    both = _load(b, address, _VI, 1)
    halves = [b.shl(both, _splat(b, 16)), both]  # either now has its bits on top
    if kind == BF16:
        return [b.bitcast(half, _VF) for half in (halves[0], b.and_(both, _splat(b, 0xFFFF0000)))]
    return [_from_f16(b, half) for half in halves]


def _from_f16(b: Any, top: Any) -> Any:
    """float32 of finite float16 bits in the upper half of a word: shift the exponent in, and correct it by 2**112."""
    size = b.bitcast(b.and_(b.lshr(top, _splat(b, 3)), _splat(b, 0x0FFFE000)), _VF)
    size = b.bitcast(b.fmul(size, _splat(b, 2.0**112)), _VI)
    return b.bitcast(b.or_(size, b.and_(top, _splat(b, 0x80000000))), _VF)


def _every(n: int, width: int, value: int) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(width), n), [value] * n)


def _pick(b: Any, v: Any, lanes: list[int]) -> Any:
    """Lanes of v in a new order; -1 is a zero."""
    order = ir.Constant(ir.VectorType(_WORD, len(lanes)), [i if i >= 0 else v.type.count for i in lanes])
    return b.shuffle_vector(v, ir.Constant(v.type, [0] * v.type.count), order)


def _pack(b: Any, both: Any, bits: int) -> Any:
    """Squeeze 16 words, each with an even and an odd q in its low bits, to 32 fields, first lowest: 4 * bits bytes."""
    if bits in (4, 8):
        return b.trunc(both, ir.VectorType(ir.IntType(2 * bits), _LANES))
    both = b.bitcast(b.and_(both, _splat(b, (1 << 2 * bits) - 1)), ir.VectorType(_QUAD, 8))
    four = b.or_(both, b.lshr(both, _every(8, 64, 32 - 2 * bits)))
    four = b.and_(four, _every(8, 64, (1 << 4 * bits) - 1))
    eight = b.or_(_pick(b, four, [0, 2, 4, 6]), b.shl(_pick(b, four, [1, 3, 5, 7]), _every(4, 64, 4 * bits)))
    return _pick(b, b.bitcast(eight, ir.VectorType(_BYTE, 32)), [8 * i + j for i in range(4) for j in range(bits)])


def _unpack(b: Any, address: Any, bits: int) -> list[Any]:
    """The inverse of `_pack`: 16 even and 16 odd words."""
    if bits in (4, 8):
        both = b.zext(_load(b, address, ir.VectorType(ir.IntType(2 * bits), _LANES), 1), _VI)
    else:
        packed = _load(b, address, ir.VectorType(_BYTE, 4 * bits), 1)
        spread = [bits * i + j if j < bits else -1 for i in range(4) for j in range(8)]
        eight = b.bitcast(_pick(b, packed, spread), ir.VectorType(_QUAD, 4))
        high = b.lshr(eight, _every(4, 64, 4 * bits))
        low = b.and_(eight, _every(4, 64, (1 << 4 * bits) - 1))
        four = b.shuffle_vector(low, high, ir.Constant(ir.VectorType(_WORD, 8), [0, 4, 1, 5, 2, 6, 3, 7]))
        both = b.bitcast(b.or_(four, b.shl(four, _every(8, 64, 32 - 2 * bits))), _VI)
    return [b.and_(v, _splat(b, (1 << bits) - 1)) for v in (both, b.lshr(both, _splat(b, bits)))]


def _reduce(b: Any, address: Any, kind: int, group: int, *ops: str) -> list[Any]:
    """Integer reductions of a group's bits, each widened to 32 bits with its sign."""
    bits = 8 * ITEM[kind]
    x = _load(b, address, ir.VectorType(ir.IntType(bits), group), 1)
    found = [_call(b, f"llvm.vector.reduce.{op}.v{group}i{bits}", ir.IntType(bits), x) for op in ops]
    return found if kind == F32 else [b.sext(end, _WORD) for end in found]


@intrinsic(prefer_literal=True)
def ends(context: Any, address: Any, kind: Any, group: Any) -> Any:
    """Largest bits of a group as signed and as unsigned integers: its largest and smallest value, if of two signs."""

    def emit(_: Any, b: Any, sig: Any, args: Any) -> Any:
        return cgutils.pack_array(b, _reduce(b, args[0], kind.literal_value, group.literal_value, "smax", "umax"))

    return types.UniTuple(types.int32, 2)(address, kind, group), emit


@intrinsic(prefer_literal=True)
def least_size(context: Any, address: Any, kind: Any, group: Any) -> Any:
    """Smallest bits of a group whose values are of one sign: the value of least size."""

    def emit(_: Any, b: Any, sig: Any, args: Any) -> Any:
        return _reduce(b, args[0], kind.literal_value, group.literal_value, "umin")[0]

    return types.int32(address, kind, group), emit


@intrinsic(prefer_literal=True)
def groups(
    context: Any,
    w: Any,
    q: Any,
    params: Any,
    stride: Any,
    sums: Any,
    count: Any,
    bins: Any,
    kind: Any,
    group: Any,
    bits: Any,
    task: Any,
) -> Any:
    """Quantize or measure a row of `count` groups: addresses of values, of q, of 4 sums, of its parameters,
    whose kinds are `stride` float32 apart.
    """
    spec = tuple(a.literal_value for a in (kind, group, bits, task))
    sig = types.void(w, q, params, stride, sums, count, types.float32, kind, group, bits, task)

    def emit(context: Any, b: Any, sig: Any, args: Any) -> Any:
        _GroupLoop(b, args[:7], *spec).run()
        return context.get_dummy_value()

    return sig, emit


class _GroupLoop:
    """The code of `groups`. Totals are stack slots that LLVM turns into registers."""

    def __init__(self, b: Any, args: Any, kind: int, group: int, bits: int, task: int) -> None:
        self.b, self.kind, self.group, self.bits, self.task = b, kind, group, bits, task
        self.w, self.q, self.params, self.stride, self.sums, self.count, self.bins = args
        self.int = self.count.type
        if task in (QUANTIZE_AND_SUM, MEASURE):
            # Σe², Σw²: float32 even and odd lanes, and float64; then max|e|, max share
            self.short = [cgutils.alloca_once_value(b, ir.Constant(_VF, [0.0] * _LANES)) for _ in range(4)]
            self.long = [cgutils.alloca_once_value(b, ir.Constant(_VD, [0.0] * _LANES)) for _ in range(2)]
            self.top = [cgutils.alloca_once_value(b, ir.Constant(_VF, [0.0] * _LANES)) for _ in range(2)]

    def run(self) -> None:
        b = self.b
        if self.task in (QUANTIZE, DEQUANTIZE):
            with cgutils.for_range(b, self.count) as loop:
                self.one_group(loop.index)
            return
        step = self.int(_FLUSH // self.group)
        with cgutils.for_range(b, b.sdiv(b.add(self.count, self.int(_FLUSH // self.group - 1)), step)) as chunk:
            first = b.mul(chunk.index, step)
            left = b.sub(self.count, first)
            for slot in self.short:
                b.store(ir.Constant(_VF, [0.0] * _LANES), slot)
            with cgutils.for_range(b, b.select(b.icmp_signed("<", left, step), left, step)) as loop:
                self.one_group(b.add(first, loop.index))
            for i, slot in enumerate(self.long):
                pair = b.fadd(b.load(self.short[2 * i]), b.load(self.short[2 * i + 1]))
                b.store(b.fadd(b.load(slot), b.fpext(pair, _VD)), slot)
        self.finish()

    def at(self, base: Any, index: Any, nbytes: int) -> Any:
        return self.b.add(base, self.b.mul(index, self.int(nbytes)))

    def parameter(self, g: Any, row: int) -> Any:
        at = self.b.add(g, self.b.mul(self.stride, self.int(row)))
        return _load(self.b, self.at(self.params, at, 4), _FLOAT, 4)

    def one_group(self, g: Any) -> None:
        b = self.b
        bias = _splat(b, self.parameter(g, BIAS))
        worst = None
        for start in range(0, self.group, 2 * _LANES):
            at = b.add(b.mul(g, self.int(self.group)), self.int(start))
            q_at = b.add(self.q, b.udiv(b.mul(at, self.int(self.bits)), self.int(8)))
            w_at = self.at(self.w, at, ITEM[self.kind])
            if self.task == DEQUANTIZE:
                self.dequantize(g, self.read(q_at), bias, self.at(self.w, at, 4))
                continue
            self.prefetch(w_at)
            values = _load_pair(b, w_at, self.kind)
            past = [b.fsub(x, bias) for x in values]
            levels = self.read(q_at) if self.task == MEASURE else self.quantize(g, past, q_at)
            if self.task != QUANTIZE:
                worst = self.add_errors(g, values, past, levels, worst)
        if worst is not None:
            share = b.fmul(worst, _splat(b, self.parameter(g, INVERSE)))
            for slot, new in zip(self.top, (worst, share), strict=True):
                b.store(_larger(b, new, b.load(slot)), slot)  # a NaN is not larger

    def prefetch(self, w_at: Any) -> None:
        """Ask for the same place of the next strip: from memory 21 GB/s, as from the cache, instead of 13."""
        b, ahead = self.b, self.b.mul(self.stride, self.int(self.group * ITEM[self.kind]))
        for line in range(0, 2 * _LANES * ITEM[self.kind], 64):
            there = b.inttoptr(b.add(b.add(w_at, ahead), self.int(line)), _BYTE.as_pointer())
            _call(b, "llvm.prefetch.p0", ir.VoidType(), there, _WORD(0), _WORD(3), _WORD(1))  # read, keep, data

    def dequantize(self, g: Any, levels: list[Any], bias: Any, address: Any) -> None:
        b, scale = self.b, _splat(self.b, self.parameter(g, STORED))
        even, odd = (b.fadd(b.fmul(q, scale), bias) for q in levels)
        order = ir.Constant(ir.VectorType(_WORD, 2 * _LANES), [i // 2 + i % 2 * _LANES for i in range(2 * _LANES)])
        _store(b, b.shuffle_vector(even, odd, order), address, 4)

    def quantize(self, g: Any, past: list[Any], q_at: Any) -> list[Any]:
        b, scale, bins = self.b, _splat(self.b, self.parameter(g, SCALE)), _splat(self.b, self.bins)
        raised = []
        for x in past:
            y = b.fdiv(x, scale)
            y = b.select(b.fcmp_ordered("<", bins, y), bins, y)  # keeps NaN, whose low bits are 0
            raised.append(b.fadd(y, _splat(b, _MAGIC)))
        levels = [b.fsub(m, _splat(b, _MAGIC)) for m in raised]
        # even + 2**bits * odd: as float32 exact, below 2**22, and again its low bits
        both = _call(b, "llvm.fmuladd.v16f32", _VF, levels[1], _splat(b, float(1 << self.bits)), raised[0])
        _store(b, _pack(b, b.bitcast(both, _VI), self.bits), q_at, 1)
        return levels

    def read(self, q_at: Any) -> list[Any]:
        return [self.b.sitofp(v, _VF) for v in _unpack(self.b, q_at, self.bits)]

    def add_errors(self, g: Any, values: Any, past: Any, levels: Any, worst: Any) -> Any:
        """Add e = (w - bias) - scale·q, rounded once, to Σe², and Σw²; return the lanes of max|e|."""
        b = self.b
        minus = _splat(b, b.fneg(self.parameter(g, STORED)))
        for i, (w, x, q) in enumerate(zip(values, past, levels, strict=True)):
            e = _call(b, "llvm.fmuladd.v16f32", _VF, q, minus, x)
            for slot, v in ((self.short[i], e), (self.short[2 + i], w)):
                b.store(_call(b, "llvm.fmuladd.v16f32", _VF, v, v, b.load(slot)), slot)
            size = _call(b, "llvm.fabs.v16f32", _VF, e)
            worst = size if worst is None else _larger(b, size, worst)
        return worst

    def finish(self) -> None:
        b = self.b
        totals = [_halves(b, b.load(slot), b.fadd) for slot in self.long]
        totals += [b.fpext(_halves(b, b.load(s), lambda x, y: _larger(b, x, y)), _DOUBLE) for s in self.top]
        for i, total in enumerate(totals):
            _store(b, total, b.add(self.sums, self.int(8 * i)), 8)
