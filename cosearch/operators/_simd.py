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
_MASK = ir.VectorType(ir.IntType(1), LANES)
_WHOLE = ir.IntType(64)


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
        return _splat(builder, value, _VECTOR)

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
        return _multiply_add(builder, args[1], clipped, args[0])

    return _lanes(total, gradient, weight, value), generate


@intrinsic
def plus_product(typing: Any, total: Any, gradient: Any, value: Any) -> Any:
    """total + gradient * value."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _multiply_add(builder, args[1], args[2], args[0])

    return _lanes(total, gradient, value), generate


@intrinsic
def plus(typing: Any, left: Any, right: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1])

    return _lanes(left, right), generate


def _folded(builder: Any, left: Any, right: Any, span: int) -> Any:
    """The halves of every run of `span` lanes of two vectors added: their results side by side in one vector."""
    starts = range(0, 2 * LANES, span)
    low = [start + i for start in starts for i in range(span // 2)]
    high = [i + span // 2 for i in low]
    lower = builder.shuffle_vector(left, right, ir.Constant(_INDEX, low))
    return builder.fadd(lower, builder.shuffle_vector(left, right, ir.Constant(_INDEX, high)))


def _loop(builder: Any, count: Any, sums: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """`sums` after body(step, sums) for the steps 0..count - 1, at least one; all in registers."""
    before = builder.block
    loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(_WHOLE)
    step.add_incoming(_WHOLE(0), before)
    running = [builder.phi(_VECTOR) for _ in sums]
    for phi, value in zip(running, sums, strict=True):
        phi.add_incoming(value, before)
    results = body(step, running)
    following = builder.add(step, _WHOLE(1))
    step.add_incoming(following, builder.block)
    for phi, value in zip(running, results, strict=True):
        phi.add_incoming(value, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return results


def _multiply_add(builder: Any, left: Any, right: Any, total: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    fused = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    return builder.call(fused, [left, right, total])


def _least(builder: Any, left: Any, right: Any) -> Any:
    return builder.select(builder.icmp_signed("<", left, right), left, right)


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INDEX, [0] * LANES))


def _product(rows: int) -> Any:
    """y[i] = sum over j < count of w[of + j rows + i] x[j] for i < min(rows, rest), on two vectors of columns.

    x[j] begins at x[at + j x_step], y[i] at y[to + i y_step]; more: add to what y holds.
    """

    @intrinsic
    def product(
        typing: Any,
        x: Any,
        at: Any,
        x_step: Any,
        w: Any,
        of: Any,
        count: Any,
        y: Any,
        to: Any,
        y_step: Any,
        rest: Any,
        more: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, at, x_step, w, of, count, y, to, y_step, rest, more = args
            kinds = signature.args

            def output(i: int, clamped: bool, v: int) -> Any:
                row = _least(builder, _WHOLE(i), builder.sub(rest, _WHOLE(1))) if clamped else _WHOLE(i)
                index = builder.add(to, builder.add(builder.mul(row, y_step), _WHOLE(v * LANES)))
                return _address(context, builder, kinds[6], y, index, _VECTOR)

            with builder.if_else(builder.icmp_signed("!=", more, _WHOLE(0))) as (then, otherwise):
                with then:
                    held = [builder.load(output(i, True, v), align=4) for i in range(rows) for v in range(2)]
                    filled = builder.block
                with otherwise:
                    empty = builder.block
            starts = []
            for value in held:
                start = builder.phi(_VECTOR)
                start.add_incoming(value, filled)
                start.add_incoming(ir.Constant(_VECTOR, [0.0] * LANES), empty)
                starts.append(start)

            def body(j: Any, sums: list[Any]) -> list[Any]:
                column = builder.add(at, builder.mul(j, x_step))
                values = [
                    builder.load(
                        _address(context, builder, kinds[0], x, builder.add(column, _WHOLE(v * LANES)), _VECTOR),
                        align=4,
                    )
                    for v in range(2)
                ]
                base = builder.add(of, builder.mul(j, _WHOLE(rows)))
                results = []
                for i in range(rows):
                    one = _address(context, builder, kinds[3], w, builder.add(base, _WHOLE(i)), ir.FloatType())
                    weight = _splat(builder, builder.load(one), _VECTOR)
                    results += [_multiply_add(builder, weight, values[v], sums[2 * i + v]) for v in range(2)]
                return results

            sums = _loop(builder, count, starts, body)
            for i in range(rows):
                with builder.if_then(builder.icmp_signed(">", rest, _WHOLE(i))):
                    for v in range(2):
                        builder.store(sums[2 * i + v], output(i, False, v), align=4)
            return context.get_dummy_value()

        return types.void(x, at, x_step, w, of, count, y, to, y_step, rest, more), generate

    return product


product_of_eight, product_of_four, product_of_two = _product(8), _product(4), _product(2)


@intrinsic
def add_products(
    typing: Any,
    x: Any,
    at: Any,
    x_step: Any,
    x_rows: Any,
    z: Any,
    of: Any,
    z_step: Any,
    z_rows: Any,
    sums: Any,
    to: Any,
    columns: Any,
) -> Any:
    """sums[to + 4 i + j] += sum over `columns` columns, a multiple of LANES, of x[i] z[j], for i, j < 4.

    x[i] begins at x[at + i x_step]; of fewer than four rows the last one stands for those that lack.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, at, x_step, x_rows, z, of, z_step, z_rows, sums, to, columns = args
        kinds = signature.args

        def rows(start: Any, step: Any, count: Any) -> list[Any]:
            last = builder.sub(count, _WHOLE(1))
            return [builder.add(start, builder.mul(_least(builder, _WHOLE(i), last), step)) for i in range(4)]

        x_at, z_at = rows(at, x_step, x_rows), rows(of, z_step, z_rows)

        def body(step: Any, running: list[Any]) -> list[Any]:
            column = builder.mul(step, _WHOLE(LANES))

            def vector(kind: Any, array: Any, start: Any) -> Any:
                return builder.load(
                    _address(context, builder, kind, array, builder.add(start, column), _VECTOR), align=4
                )

            left = [vector(kinds[0], x, start) for start in x_at]
            right = [vector(kinds[4], z, start) for start in z_at]
            return [
                _multiply_add(builder, a, b, running[4 * i + j])
                for i, a in enumerate(left)
                for j, b in enumerate(right)
            ]

        zeros = [ir.Constant(_VECTOR, [0.0] * LANES)] * 16
        found, span = _loop(builder, builder.sdiv(columns, _WHOLE(LANES)), zeros, body), LANES
        while len(found) > 1:
            pairs = zip(found[::2], found[1::2], strict=True)
            found, span = [_folded(builder, a, b, span) for a, b in pairs], span // 2
        target = _address(context, builder, kinds[8], sums, to, _VECTOR)
        builder.store(builder.fadd(builder.load(target, align=4), found[0]), target, align=4)
        return context.get_dummy_value()

    return types.void(x, at, x_step, x_rows, z, of, z_step, z_rows, sums, to, columns), generate


def _between(builder: Any, low: Any, high: Any) -> Any:
    """One per lane i with low <= i < high."""
    narrow, places = ir.IntType(32), ir.Constant(_INDEX, list(range(LANES)))
    limits = [
        _least(builder, _WHOLE(LANES), builder.select(builder.icmp_signed(">", v, _WHOLE(0)), v, _WHOLE(0)))
        for v in (low, high)
    ]
    least, most = (_splat(builder, builder.trunc(v, narrow), _INDEX) for v in limits)
    return builder.and_(builder.icmp_signed(">=", places, least), builder.icmp_signed("<", places, most))


@intrinsic
def load_some(typing: Any, array: Any, index: Any, low: Any, high: Any) -> Any:
    """As `load`, zero in the lanes outside low..high - 1, whose addresses are not touched."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1], _VECTOR)
        kind = ir.FunctionType(_VECTOR, [address.type, ir.IntType(32), _MASK, _VECTOR])
        masked = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0v{LANES}f32")
        zeros = ir.Constant(_VECTOR, [0.0] * LANES)
        return builder.call(masked, [address, ir.IntType(32)(4), _between(builder, args[2], args[3]), zeros])

    return _lanes(array, index, low, high), generate


@intrinsic
def store_some(typing: Any, array: Any, index: Any, value: Any, low: Any, high: Any) -> Any:
    """As `store`, only the lanes low..high - 1."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1], _VECTOR)
        kind = ir.FunctionType(ir.VoidType(), [_VECTOR, address.type, ir.IntType(32), _MASK])
        masked = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0v{LANES}f32")
        builder.call(masked, [args[2], address, ir.IntType(32)(4), _between(builder, args[3], args[4])])
        return context.get_dummy_value()

    return types.void(array, index, value, low, high), generate


@intrinsic
def transpose(typing: Any, source: Any, at: Any, step: Any, target: Any, to: Any, pitch: Any) -> Any:
    """LANES x LANES values, rows `step` apart, transposed into rows `pitch` apart."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, at, step, target, to, pitch = args

        def place(kind: Any, array: Any, start: Any, apart: Any, i: int) -> Any:
            return _address(context, builder, kind, array, builder.add(start, builder.mul(apart, _WHOLE(i))), _VECTOR)

        kinds = signature.args
        rows = [builder.load(place(kinds[0], source, at, step, i), align=4) for i in range(LANES)]
        distance = LANES // 2
        while distance:  # swap the off-diagonal halves of ever smaller squares
            low = [i if not i & distance else LANES + i - distance for i in range(LANES)]
            high = [i + distance for i in low]
            for i in range(LANES):
                if not i & distance:
                    pair = rows[i], rows[i + distance]
                    rows[i] = builder.shuffle_vector(*pair, ir.Constant(_INDEX, low))
                    rows[i + distance] = builder.shuffle_vector(*pair, ir.Constant(_INDEX, high))
            distance //= 2
        for i, row in enumerate(rows):
            builder.store(row, place(kinds[3], target, to, pitch, i), align=4)
        return context.get_dummy_value()

    return types.void(source, at, step, target, to, pitch), generate


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
