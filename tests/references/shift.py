"""DeepShift's two weight forms for one number, in Python floats."""

import math


def form_q(value: float, bits: int) -> float:
    low, high = 2.0 ** -(2 ** (bits - 1) - 1), 1.0
    if value == 0:
        return low
    magnitude = min(max(abs(value), low), high)
    return math.copysign(2.0 ** math.floor(math.log2(magnitude) + 0.5), value)


def form_ps(shift: float, sign: float, bits: int) -> float:
    exponent = round(min(max(shift, -(2 ** (bits - 1) - 2)), 0))
    unit = 0 if abs(sign) <= 0.5 else math.copysign(1, sign)
    return 2.0**exponent * unit
