"""A row of label values as one SIMD value inside compiled kernels.

numba turns loops over a few labels into scalar code. `RowType` holds the values of all labels of
one pixel or lattice vertex in vector registers: a struct of 16-, 8- and 4-wide float32 vectors,
because LLVM splits other widths badly. Kernels choose the width with a token, a tuple of that
many zeros: its length is part of its type, so one kernel source is compiled once per width.

Rows live in flat float32 arrays; offsets count elements.
"""

# numba calls typing and code generators with all arguments by position.
# ruff: noqa: ARG001

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
WIDTHS = (4, 8, 16, 24, 32)


def lanes_for(num_labels: int) -> tuple[int, ...]:
    """Return the width token for rows of so many labels; rows above 32 are cut into blocks.

    Args:
        num_labels: Number of labels, >= 1.
    """
    width = next((width for width in WIDTHS if width >= num_labels), WIDTHS[-1])
    return (0,) * width


def _chunks(width: int) -> list[int]:
    """Cut a width into vectors: 24 -> [16, 8]."""
    sizes = []
    for size in (16, 8, 4):
        sizes += [size] * (width // size)
        width %= size
    return sizes


class RowType(types.Type):  # type: ignore[misc]
    """numba's type of a row; ``width`` is a multiple of 4."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(name=f"Row({width})")


@register_model(RowType)
class _RowModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: RowType) -> None:
        vectors = [ir.VectorType(_FLOAT, size) for size in _chunks(fe_type.width)]
        super().__init__(dmm, fe_type, ir.LiteralStructType(vectors))


def _vectors(builder: Any, row: Any) -> list[Any]:
    return [builder.extract_value(row, place) for place in range(len(row.type.elements))]


def _row(builder: Any, vectors: list[Any]) -> Any:
    row = ir.Constant(ir.LiteralStructType([vector.type for vector in vectors]), ir.Undefined)
    for place, vector in enumerate(vectors):
        row = builder.insert_value(row, vector, place)
    return row


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _broadcast(builder: Any, scalar: Any, kind: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, _constant(ir.VectorType(_INT, kind.count), 0))


def _llvm(builder: Any, name: str, args: list[Any], flags: tuple[str, ...] = ()) -> Any:
    """Call an element-wise LLVM intrinsic such as ``llvm.rint`` on vectors of one type."""
    kind = args[0].type
    suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
    signature = ir.FunctionType(kind, [arg.type for arg in args])
    function = cgutils.get_or_insert_function(builder.module, signature, f"{name}.{suffix}")
    return builder.call(function, args, fastmath=flags)


def _reduce(builder: Any, name: str, args: list[Any], flags: tuple[str, ...]) -> Any:
    """Reduce the last argument, a vector, to one number."""
    signature = ir.FunctionType(_FLOAT, [arg.type for arg in args])
    name = f"llvm.vector.reduce.{name}.v{args[-1].type.count}f32"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(function, args, fastmath=flags)


def _pointers(
    context: Any, builder: Any, kind: Any, array: Any, offset: Any, width: int
) -> Iterator[Any]:
    data = context.make_array(kind)(context, builder, array).data
    start = 0
    for size in _chunks(width):
        place = builder.add(offset, ir.Constant(offset.type, start))
        vector = ir.VectorType(_FLOAT, size)
        yield builder.bitcast(builder.gep(data, [place]), vector.as_pointer())
        start += size


@intrinsic
def load(_: Any, array: Any, offset: Any, lanes: Any) -> tuple[Any, Callable[..., Any]]:
    """``load(array, offset, lanes)``: read a row of ``len(lanes)`` values."""
    width = lanes.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors = []
        for pointer in _pointers(context, builder, signature.args[0], args[0], args[1], width):
            vector = builder.load(pointer)
            vector.align = 4
            vectors.append(vector)
        return _row(builder, vectors)

    return RowType(width)(array, types.int64, lanes), codegen


@intrinsic
def store(_: Any, array: Any, offset: Any, row: Any) -> tuple[Any, Callable[..., Any]]:
    """``store(array, offset, row)``: write a row."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        pointers = _pointers(context, builder, kind, args[0], args[1], row.width)
        for pointer, vector in zip(pointers, _vectors(builder, args[2]), strict=True):
            builder.store(vector, pointer).align = 4
        return context.get_dummy_value()

    return types.void(array, types.int64, row), codegen


@intrinsic
def axpy(_: Any, factor: Any, row: Any, other: Any) -> tuple[Any, Callable[..., Any]]:
    """``axpy(factor, row, other)``: factor * row + other."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pairs = zip(_vectors(builder, args[1]), _vectors(builder, args[2]), strict=True)
        return _row(
            builder,
            [
                _llvm(builder, "llvm.fmuladd", [_broadcast(builder, args[0], a.type), a, b])
                for a, b in pairs
            ],
        )

    return row(types.float32, row, row), codegen


@intrinsic
def multiply_add(_: Any, row: Any, other: Any, third: Any) -> tuple[Any, Callable[..., Any]]:
    """``multiply_add(row, other, third)``: row * other + third, value by value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        triples = zip(*(_vectors(builder, arg) for arg in args), strict=True)
        return _row(builder, [_llvm(builder, "llvm.fmuladd", list(parts)) for parts in triples])

    return row(row, other, third), codegen


@intrinsic
def add_distance(_: Any, row: Any, other: Any, third: Any) -> tuple[Any, Callable[..., Any]]:
    """``add_distance(row, other, third)``: |row - other| + third, value by value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        triples = zip(*(_vectors(builder, arg) for arg in args), strict=True)
        return _row(
            builder,
            [
                builder.fadd(_llvm(builder, "llvm.fabs", [builder.fsub(a, b)]), c)
                for a, b, c in triples
            ],
        )

    return row(row, other, third), codegen


@intrinsic
def scale(_: Any, factor: Any, row: Any) -> tuple[Any, Callable[..., Any]]:
    """``scale(factor, row)``: factor * row."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _row(
            builder,
            [
                builder.fmul(_broadcast(builder, args[0], vector.type), vector)
                for vector in _vectors(builder, args[1])
            ],
        )

    return row(types.float32, row), codegen


@intrinsic
def add(_: Any, row: Any, other: Any) -> tuple[Any, Callable[..., Any]]:
    """``add(row, other)``: row + other."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pairs = zip(_vectors(builder, args[0]), _vectors(builder, args[1]), strict=True)
        return _row(builder, [builder.fadd(a, b) for a, b in pairs])

    return row(row, row), codegen


@intrinsic
def largest(_: Any, row: Any) -> tuple[Any, Callable[..., Any]]:
    """``largest(row)``: the largest value of a row without NaN."""
    flags = ("nnan", "nsz")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        parts = [_reduce(builder, "fmax", [v], flags) for v in _vectors(builder, args[0])]
        result = parts[0]
        for part in parts[1:]:
            result = _llvm(builder, "llvm.maxnum", [result, part], flags)
        return result

    return types.float32(row), codegen


@intrinsic
def total(_: Any, row: Any) -> tuple[Any, Callable[..., Any]]:
    """``total(row)``: the sum of a row."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(_FLOAT, 0.0)
        parts = [
            _reduce(builder, "fadd", [zero, v], ("reassoc",)) for v in _vectors(builder, args[0])
        ]
        result = parts[0]
        for part in parts[1:]:
            result = builder.fadd(result, part)
        return result

    return types.float32(row), codegen


@intrinsic
def exp_minus(_: Any, row: Any, peak: Any) -> tuple[Any, Callable[..., Any]]:
    """``exp_minus(row, peak)``: exp(row - peak) for row <= peak; values below exp(-87) are 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _row(
            builder,
            [
                _exp(builder, builder.fsub(v, _broadcast(builder, args[1], v.type)))
                for v in _vectors(builder, args[0])
            ],
        )

    return row(row, types.float32), codegen


# exp(r) on [-ln2/2, ln2/2]: Cephes' minimax polynomial in single precision (Moshier, 1989).
_EXP_POLYNOMIAL = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
_LOG2_E = 1.4426950408889634
# ln 2 in two parts, so that n * ln2 is exact in its first part.
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.42860682030941723212e-6
_LOWEST = -87.0


def _exp(builder: Any, x: Any) -> Any:
    """exp(x) = 2^n * exp(r) with n = round(x / ln 2), about 1e-7 relative error."""
    kind = x.type
    ints = ir.VectorType(_INT, kind.count)

    def fma(a: Any, b: Any, c: Any) -> Any:
        return _llvm(builder, "llvm.fmuladd", [a, b, c])

    is_normal = builder.fcmp_ordered(">=", x, _constant(kind, _LOWEST))
    x = _llvm(builder, "llvm.maxnum", [x, _constant(kind, _LOWEST)], ("nnan",))
    n = _llvm(builder, "llvm.rint", [builder.fmul(x, _constant(kind, _LOG2_E))])
    r = fma(n, _constant(kind, -_LN2_HIGH), x)
    r = fma(n, _constant(kind, -_LN2_LOW), r)
    p = _constant(kind, _EXP_POLYNOMIAL[0])
    for coefficient in _EXP_POLYNOMIAL[1:]:
        p = fma(p, r, _constant(kind, coefficient))
    p = fma(builder.fmul(p, r), r, r)
    p = builder.fadd(p, _constant(kind, 1.0))
    exponent = builder.add(builder.fptosi(n, ints), _constant(ints, 127))
    power = builder.bitcast(builder.shl(exponent, _constant(ints, 23)), kind)
    return builder.select(is_normal, builder.fmul(p, power), _constant(kind, 0.0))
