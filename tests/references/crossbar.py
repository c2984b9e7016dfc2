"""A matrix product through crossbars, literally: bit by bit of the inputs, cell by cell of the weights, read by read.

Every sum of a column passes a converter that tells ``2^adc_bits`` values apart and cuts off what lies above.
"""

import numpy as np


def through_crossbar(inputs, weights, rows: int, cell_bits: int, adc_bits: int, active: int):
    """[n, k] integers: inputs [n, r], 0 to 255, times weights [r, k], -255 to 255, in arrays of so many rows.

    active: rows driven at once. Positive and negative weights lie in columns of their own, subtracted afterwards.
    """
    total = np.zeros((len(inputs), weights.shape[1]), np.int64)
    for sign in (1, -1):
        magnitude = np.maximum(sign * weights, 0)
        for first in range(0, len(weights), rows):
            for start in range(first, min(first + rows, len(weights)), active):
                on = slice(start, min(start + active, first + rows))
                for bit in range(8):
                    driven = (inputs[:, on] >> bit) & 1
                    for low in range(0, 8, cell_bits):
                        cells = (magnitude[on] >> low) & (2**cell_bits - 1)
                        converted = np.minimum(driven @ cells, 2**adc_bits - 1)
                        total += sign * (converted << (bit + low))
    return total
