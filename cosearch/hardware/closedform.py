"""Accelerators whose layers have a closed-form cost and no mappings: crossbars and processors.

Crossbar (processing in memory): weights in cells, inputs bit-serial on the rows, columns summed and converted by ADCs.
A layer is a matrix product of ``rows_needed = C R S / groups`` by K columns, b_w and b_i bits:
``cells = ceil(b_w / cell_bits)``; ``columns = K cells s`` with s = 2 for paired positive and negative columns, 1 for
polarised ones; ``arrays = ceil(rows_needed / rows) ceil(columns / cols)``, several groups in one array where they fit;
``latency = N P Q b_i columns_per_adc read_ns`` per pass, every array working at once;
``energy = N P Q b_i (cells read e_cell + rows driven e_driver + columns converted (e_adc 2^(adc_bits - 8) + e_shift))``
plus buffers. A layer that needs more arrays than there are runs in passes and pays for writing every cell again; so
does one whose weights are computed, as in an attention product.
Sources: ISAAC (ISCA 2016) for the array; FORMS (ISCA 2021) for polarised columns.

Dropped channels leave smaller layers; other zero weights are computed like any weight on both.

Processor: ``latency = max(operations / (operations per cycle x f), compulsory bits / DRAM rate)``; operations per cycle
scale with 8 over the wider operand. ``energy = (C V^2 f + leakage V / V_nominal) latency + DRAM bits e_dram``. Every
layer reads its weights and inputs and writes its outputs once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Protocol

from cosearch.errors import HardwareError
from cosearch.hardware.parts import read_costs
from cosearch.hardware.sparsity import seen
from cosearch.workload import Layer


@cache
def unit_costs(table: str) -> dict[str, float]:
    return {name: cost.value for name, cost in read_costs(table).items()}


@dataclass(frozen=True)
class FormCost:
    """One layer. energy_pj: by component. roofline_ms, compulsory_pj: what cannot be beaten on this hardware."""

    latency_ms: float
    energy_pj: Mapping[str, float]
    utilisation: float
    bound: str
    roofline_ms: float
    compulsory_pj: float

    @property
    def energy_mj(self) -> float:
        return sum(self.energy_pj.values()) * 1e-9


class ClosedForm(Protocol):
    """What an engine without mappings is."""

    name: ClassVar[str]

    @property
    def clock_mhz(self) -> float: ...

    def cost(self, layer: Layer) -> FormCost: ...


@dataclass(frozen=True)
class Crossbar:
    """arrays of rows x cols cells of cell_bits; one ADC of adc_bits per columns_per_adc columns; see the module."""

    name: ClassVar[str] = "crossbar"
    rows: int = 128
    cols: int = 128
    cell_bits: int = 2
    adc_bits: int = 8
    columns_per_adc: int = 8
    arrays: int = 1024
    polarised: bool = False

    @property
    def clock_mhz(self) -> float:
        """One crossbar read per cycle."""
        return 1e3 / unit_costs("crossbar")["read_ns"]

    @property
    def area_um2(self) -> float:
        table = unit_costs("crossbar")
        adcs = math.ceil(self.cols / self.columns_per_adc) * table["adc_um2_8bit"] * 2.0 ** (self.adc_bits - 8)
        return self.arrays * (table["array_um2_128"] * self.rows * self.cols / 128**2 + adcs)

    def columns(self, layer: Layer) -> int:
        """Physical columns of one group."""
        pairs = 1 if self.polarised else 2
        return layer.K // layer.groups * math.ceil(layer.weight_bits / self.cell_bits) * pairs

    def arrays_needed(self, layer: Layer) -> int:
        """``ceil(rows_needed / rows) ceil(columns / cols)``; groups share an array's diagonal where they fit."""
        rows, columns = layer.C // layer.groups * layer.R * layer.S, self.columns(layer)
        together = min(self.rows // rows, self.cols // columns)
        if together >= 1:
            return math.ceil(layer.groups / together)
        return layer.groups * math.ceil(rows / self.rows) * math.ceil(columns / self.cols)

    def cost(self, layer: Layer) -> FormCost:
        """See the module; pooling and elementwise layers run beside the arrays, `cols` operations at a time.

        utilisation: cells of the layer over cells of all arrays, over the passes.
        """
        layer = seen(layer)
        table = unit_costs("crossbar")
        moved = layer.input_count * layer.input_bits + layer.output_count * layer.output_bits
        buffers = moved * table["buffer_pj_per_bit"]
        if not layer.has_weights:
            ns, ideal = (table["read_ns"] * n for n in (math.ceil(layer.macs / self.cols), layer.macs / self.cols))
            energy = {"operations": layer.macs * table["shift_add_pj"], "buffers": buffers}
            return FormCost(ns * 1e-6, energy, ideal / ns, "compute", ideal * 1e-6, sum(energy.values()))
        reads = layer.N * layer.P * layer.Q * layer.input_bits
        rows, columns = layer.C // layer.groups * layer.R * layer.S, self.columns(layer)
        passes = math.ceil(self.arrays_needed(layer) / self.arrays)
        read_ns = reads * min(self.columns_per_adc, columns) * table["read_ns"]
        writes = passes > 1 or layer.computed_weights
        write_ns = passes * self.rows * table["row_write_ns"] * writes
        conversion = table["adc_pj_8bit"] * 2.0 ** (self.adc_bits - 8) + table["shift_add_pj"]
        cells = layer.groups * rows * columns
        energy = {
            "cells": reads * cells * table["cell_read_pj"],
            "drivers": reads * layer.groups * math.ceil(columns / self.cols) * rows * table["driver_pj"],
            "converters": reads * layer.groups * math.ceil(rows / self.rows) * columns * conversion,
            "buffers": buffers,
            "writes": cells * table["cell_write_pj"] * writes,
        }
        filled = cells / (self.arrays * self.rows * self.cols)
        return FormCost(
            (passes * read_ns + write_ns) * 1e-6,
            energy,
            filled * read_ns / (passes * read_ns + write_ns),
            "converters" if passes * read_ns >= write_ns else "writes",
            max(1.0, filled) * read_ns * 1e-6,
            sum(energy.values()) - (0.0 if layer.computed_weights else energy["writes"]),
        )


@dataclass(frozen=True)
class OperatingPoint:
    """A processor at one clock and supply voltage; nominal_v: the voltage that its leakage is given at."""

    name: ClassVar[str] = "processor"
    processor: str
    clock_mhz: float
    voltage: float
    nominal_v: float

    @property
    def dynamic_w(self) -> float:
        """``C V^2 f``."""
        return unit_costs("processors")[f"{self.processor}.switched_nf"] * self.voltage**2 * self.clock_mhz * 1e-3

    @property
    def leakage_w(self) -> float:
        """In proportion to the voltage."""
        return unit_costs("processors")[f"{self.processor}.leakage_w"] * self.voltage / self.nominal_v

    def cost(self, layer: Layer) -> FormCost:
        """The roofline itself: see the module."""
        layer = seen(layer)
        table = unit_costs("processors")
        width = max(8, layer.input_bits, layer.weight_bits if layer.has_weights else 0)
        rate = table[f"{self.processor}.macs_per_cycle"] * 8 / width * self.clock_mhz * 1e3
        bits = layer.weight_count * layer.weight_bits + layer.input_count * layer.input_bits
        bits += layer.output_count * layer.output_bits
        compute_ms, dram_ms = layer.macs / rate, bits / (table[f"{self.processor}.dram_gbit_per_s"] * 1e6)
        ms = max(compute_ms, dram_ms)
        energy = {
            "dynamic": self.dynamic_w * ms * 1e9,
            "static": self.leakage_w * ms * 1e9,
            "dram": bits * table[f"{self.processor}.dram_pj_per_bit"],
        }
        bound = "compute" if compute_ms >= dram_ms else "dram"
        return FormCost(ms, energy, compute_ms / ms, bound, ms, sum(energy.values()))


FORMS: dict[str, type[Any]] = {form.name: form for form in (Crossbar, OperatingPoint)}


def form_from_json(data: Mapping[str, Any]) -> Any:
    """Raises: HardwareError for a form that does not exist."""
    fields = dict(data)
    name = fields.pop("name", None)
    if name not in FORMS:
        raise HardwareError(f"closed form {name!r}, expected one of {', '.join(FORMS)}")
    return FORMS[name](**fields)
