# mypy: disable-error-code="call-arg, var-annotated, type-var, misc, assignment"
"""Sixteen-lane vectors for numba kernels, their compilation on first use, and the threads that run them.

Sixteen lanes are one LLVM vector, which the compiler maps to whatever vector width the machine has. Values of type
`Lanes` live in registers; a plain numba loop would store and reload its sums for every term.

Kernels take a range of units of work, release the GIL and run on Python threads: no OpenMP or other threading layer of
numba is started, which keeps them safe under fork and under concurrent callers. A unit owns its outputs, so results
do not depend on the number of threads.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
SMALL_WORK = 1 << 19  # operations below which waking threads costs more than it saves
FLOATS, INTS = types.float32[::1], types.int64[::1]

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INDEX = ir.VectorType(ir.IntType(32), LANES)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


_lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, element: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), element.as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Sixteen consecutive values from array[index]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], args[0], args[1], _VECTOR), align=4)

    return _lanes(array, index), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature.args[0], args[0], args[1], _VECTOR), align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), generate


@intrinsic
def spread(typing: Any, array: Any, index: Any) -> Any:
    """array[index] in all sixteen lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(_address(context, builder, signature.args[0], args[0], args[1], ir.FloatType()))
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, undefined, ir.Constant(_INDEX, [0] * LANES))

    return _lanes(array, index), generate


@intrinsic
def whole(typing: Any, array: Any, index: Any) -> Any:
    """array[index] of an int64 array, without numba's test for negative indices."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], args[0], args[1], ir.IntType(64)))

    return types.int64(array, index), generate


@intrinsic
def zero(typing: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_VECTOR, [0.0] * LANES)

    return _lanes(), generate


@intrinsic
def minus_distance(typing: Any, total: Any, weight: Any, value: Any) -> Any:
    """total - |weight - value|."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR])
        absolute = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fabs.v{LANES}f32")
        return builder.fsub(args[0], builder.call(absolute, [builder.fsub(args[1], args[2])]))

    return _lanes(total, weight, value), generate


@intrinsic
def plus_clipped(typing: Any, total: Any, gradient: Any, weight: Any, value: Any) -> Any:
    """total + gradient * clip(weight - value, -1, 1); a NaN difference stays NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one, minus = ir.Constant(_VECTOR, [1.0] * LANES), ir.Constant(_VECTOR, [-1.0] * LANES)
        difference = builder.fsub(args[2], args[3])
        below = builder.select(builder.fcmp_unordered("<", difference, one), difference, one)
        clipped = builder.select(builder.fcmp_unordered(">", below, minus), below, minus)
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        fused = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        return builder.call(fused, [args[1], clipped, args[0]])

    return _lanes(total, gradient, weight, value), generate


@intrinsic
def plus_product(typing: Any, total: Any, gradient: Any, value: Any) -> Any:
    """total + gradient * value."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        fused = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        return builder.call(fused, [args[1], args[2], args[0]])

    return _lanes(total, gradient, value), generate


@intrinsic
def plus(typing: Any, left: Any, right: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1])

    return _lanes(left, right), generate


@intrinsic
def halves(typing: Any, left: Any, right: Any) -> Any:
    """Lanes i and i + 8 added: of left in lanes 0-7, of right in lanes 8-15."""
    return _folding(left, right, LANES)


@intrinsic
def quarters(typing: Any, left: Any, right: Any) -> Any:
    """As `halves`, within runs of eight lanes."""
    return _folding(left, right, LANES // 2)


@intrinsic
def eighths(typing: Any, left: Any, right: Any) -> Any:
    """As `halves`, within runs of four lanes."""
    return _folding(left, right, LANES // 4)


def _folding(left: Any, right: Any, span: int) -> Any:
    """Add the halves of every run of `span` lanes of two vectors: their results side by side in one vector."""
    starts = range(0, 2 * LANES, span)
    low = [start + i for start in starts for i in range(span // 2)]
    high = [i + span // 2 for i in low]

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lower = builder.shuffle_vector(args[0], args[1], ir.Constant(_INDEX, low))
        upper = builder.shuffle_vector(args[0], args[1], ir.Constant(_INDEX, high))
        return builder.fadd(lower, upper)

    return _lanes(left, right), generate


@intrinsic
def copy(typing: Any, target: Any, to: Any, source: Any, start: Any, count: Any) -> Any:
    """target[to : to + count] = source[start : start + count]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        into = _address(context, builder, signature.args[0], args[0], args[1], ir.FloatType())
        out_of = _address(context, builder, signature.args[2], args[2], args[3], ir.FloatType())
        cgutils.raw_memcpy(builder, into, out_of, args[4], 4)
        return context.get_dummy_value()

    return types.void(target, to, source, start, count), generate


@intrinsic
def move(typing: Any, target: Any, to: Any, source: Any, start: Any) -> Any:
    """target[to] = source[start], without numba's tests for negative indices."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(_address(context, builder, signature.args[2], args[2], args[3], ir.FloatType()))
        builder.store(value, _address(context, builder, signature.args[0], args[0], args[1], ir.FloatType()))
        return context.get_dummy_value()

    return types.void(target, to, source, start), generate


def compile_kernel(function: Any, *arguments: Any) -> Callable[..., None]:
    """Compile a kernel for the given numba types, and keep it on disk where the disk allows it."""
    signature = types.void(*arguments)
    try:
        return njit(signature, nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba finds no directory it may write its cache to
        return njit(signature, nogil=True, error_model="numpy")(function)


_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None  # a forked child has the executor but none of its threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="cosearch-add")
    return _pool


def run(kernel: Callable[[int, int], None], units: int, operations: int, threads: int) -> None:
    """Run units 0..units on `threads` threads, the caller among them; each takes the next chunk when it is free."""
    threads = min(threads, units)
    if threads <= 1 or operations < SMALL_WORK:
        kernel(0, units)
        return
    chunk = -(-units // (threads * 4))
    starts = itertools.count(0, chunk)  # next() on it is atomic

    def work() -> None:
        while (start := next(starts)) < units:
            kernel(start, min(start + chunk, units))

    others = [_executor().submit(work) for _ in range(threads - 1)]
    work()
    wait(others)
    for other in others:
        other.result()
