"""Accelerators whose layers have a closed-form cost and no mappings: crossbars and processors.

Crossbar (processing in memory): weights in cells, inputs bit-serial on the rows, columns summed and converted by ADCs.
A layer is a matrix product of ``rows_needed = C R S / groups`` by K columns, b_w and b_i bits:
``cells = ceil(b_w / cell_bits)``; ``columns = K cells s`` with s = 2 for paired positive and negative columns, 1 for
polarised ones; ``arrays = ceil(rows_needed / rows) ceil(columns / cols)``, several groups in one array where they fit.

Every product is exact. A column of r rows, driven by one bit each, reaches ``r (2^cell_bits - 1)``; an ADC tells
``2^adc_bits`` values apart. So at most ``active = floor((2^adc_bits - 1) / (2^cell_bits - 1))`` rows are driven at once
(ISAAC's resolution for one-bit inputs, ``log2 rows + cell_bits``, where all are), and a bit of the inputs takes
``reads = ceil(rows / active)`` reads of the array: cheaper converters take more of them. One read takes as long as
the array or its converters: ``cycle = max(read_ns, columns per ADC / adc_gsps)``.

``latency = N P Q b_i reads cycle`` per pass, every array working at once. Energy: cells, drivers and input registers
once per row and bit; sample and hold, ADC and shift-and-add once per column and read; buffers (eDRAM, bus, router) per
bit moved; requantisation per output; static power of all periphery and of the cells for as long as the layer takes.

Writing: where the weights of the whole network fit the cells together, they are written once and for all. Where they
do not, every layer fetches its weights from DRAM and writes its cells for every input, one row of every array at a
time: ``max(passes rows row_write_ns, weight bits / DRAM rate)`` in ``passes = ceil(arrays / arrays there are)``.
Weights that another layer computes, as in an attention product, are written for every input too, without the DRAM.
Sources: ISAAC (ISCA 2016) for the array and its periphery; FORMS (ISCA 2021) for polarised columns. Not modelled:
noise and variation of cells, ISAAC's encoding that saves one bit of the ADC, copies of weights in idle arrays, how the
layers of a network pack into arrays (their cells are counted).

Dropped channels leave smaller layers; other zero weights are computed like any weight on both.

Processor: ``latency = max(operations / (operations per cycle x f), compulsory bits / DRAM rate)``; operations per cycle
scale with 8 over the wider operand. ``energy = (C V^2 f + leakage V / V_nominal) latency + DRAM bits e_dram``. Every
layer reads its weights and inputs and writes its outputs once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, Protocol

from cosearch.errors import HardwareError, nearest
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

    @property
    def weight_bits(self) -> int:
        """Weights that may stay from one input to the next; -1 where none do."""

    def cost(self, layer: Layer, weights_stay: bool = False) -> FormCost:
        """weights_stay: the network's weights all fit `weight_bits`."""


CELL_BITS: dict[str, tuple[int, ...]] = {"reram": (1, 2, 4), "sram": (1,)}
"""Technologies of cells -> bits that one may store."""
ADC_BITS: tuple[int, ...] = (4, 5, 6, 7, 8, 9, 10)
"""Resolutions that the table has."""


@dataclass(frozen=True)
class Crossbar:
    """arrays of rows x cols cells of cell_bits; one ADC of adc_bits per columns_per_adc columns; see the module.

    Raises: HardwareError for cells or converters that do not exist, or that cannot read a single cell.
    """

    name: ClassVar[str] = "crossbar"
    rows: int = 128
    cols: int = 128
    cell_bits: int = 2
    adc_bits: int = 8
    columns_per_adc: int = 8
    arrays: int = 1024
    polarised: bool = False
    technology: str = "reram"

    def __post_init__(self) -> None:
        if self.technology not in CELL_BITS:
            raise HardwareError(f"crossbar cells of {self.technology!r}: {nearest(self.technology, CELL_BITS)}")
        if self.cell_bits not in CELL_BITS[self.technology]:
            allowed = ", ".join(map(str, CELL_BITS[self.technology]))
            raise HardwareError(f"{self.technology} cells of {self.cell_bits} bits, expected {allowed}")
        if self.adc_bits not in ADC_BITS:
            raise HardwareError(f"ADC of {self.adc_bits} bits, expected {ADC_BITS[0]} to {ADC_BITS[-1]}")

    @cached_property
    def _figures(self) -> dict[str, float]:
        """The table's, and those of this technology's cells and of this ADC under names of their own."""
        table = unit_costs("crossbar")
        own = {name.split(".")[1]: value for name, value in table.items() if name.startswith(f"{self.technology}.")}
        return {**table, **own, **{f"adc_{what}": table[f"adc_{what}_{self.adc_bits}bit"] for what in ("pj", "um2")}}

    @property
    def clock_mhz(self) -> float:
        """One read of an array per cycle, if its converters keep up."""
        return 1e3 / self._figures["read_ns"]

    @property
    def weight_bits(self) -> int:
        """Cells of all arrays, in bits of weights."""
        return self.arrays * self.rows * self.cols * self.cell_bits // (1 if self.polarised else 2)

    @cached_property
    def active_rows(self) -> int:
        """Rows driven at once, so that the ADC tells every sum of a column apart."""
        return min(self.rows, (2**self.adc_bits - 1) // (2**self.cell_bits - 1))

    @property
    def adcs(self) -> int:
        """Of one array."""
        return math.ceil(self.cols / self.columns_per_adc)

    @property
    def area_um2(self) -> float:
        table = self._figures
        array = self.rows * self.cols * table["cell_um2"]
        array += self.rows * table["driver_um2"] + self.cols * table["sample_um2"]
        array += self.adcs * (table["adc_um2"] + table["shift_add_um2"])
        array += (self.rows + self.cols) * table["register_um2"] + table["buffer_um2"]
        return self.arrays * array + self.cols * table["alu_um2"]

    @cached_property
    def static_w(self) -> float:
        """Of all arrays with their periphery, busy or not."""
        table = self._figures
        array_uw = self.rows * self.cols * table["cell_leakage_nw"] * 1e-3
        array_uw += self.rows * table["driver_static_uw"] + self.cols * table["sample_static_uw"]
        converting_uw = (table["adc_pj"] + table["shift_add_pj"]) * table["adc_gsps"] * 1e3
        array_uw += self.adcs * table["static_share"] * converting_uw
        array_uw += (self.rows + self.cols) * table["register_static_uw"] + table["buffer_static_uw"]
        return (self.arrays * array_uw + self.cols * table["alu_static_uw"]) * 1e-6

    def columns(self, layer: Layer) -> int:
        """Physical columns of one group."""
        pairs = 1 if self.polarised else 2
        return layer.K // layer.groups * math.ceil(layer.weight_bits / self.cell_bits) * pairs

    def _together(self, layer: Layer) -> int:
        """Groups that share an array along its diagonal; 0 where one group takes more than an array."""
        return min(self.rows // _rows(layer), self.cols // self.columns(layer), layer.groups)

    def arrays_needed(self, layer: Layer) -> int:
        """``ceil(rows_needed / rows) ceil(columns / cols)``; groups share an array's diagonal where they fit."""
        if together := self._together(layer):
            return math.ceil(layer.groups / together)
        return layer.groups * math.ceil(_rows(layer) / self.rows) * math.ceil(self.columns(layer) / self.cols)

    def cost(self, layer: Layer, weights_stay: bool = False) -> FormCost:
        """See the module; pooling and elementwise layers run beside the arrays, `cols` operations at a time.

        Infinite for a layer that should stay and needs more arrays than there are.
        utilisation: cells of the layer over cells of all arrays, over the passes.
        """
        layer = seen(layer)
        table = self._figures
        moved = layer.input_count * layer.input_bits + layer.output_count * layer.output_bits
        buffers = moved * table["buffer_pj_per_bit"]
        static = self.static_w * 1e3  # pJ a nanosecond
        if not layer.has_weights:
            ns, ideal = (table["digital_ns"] * n for n in (math.ceil(layer.macs / self.cols), layer.macs / self.cols))
            energy = {"operations": layer.macs * table["alu_pj"], "buffers": buffers, "static": static * ns}
            least = energy["operations"] + buffers + static * ideal
            return FormCost(ns * 1e-6, energy, ideal / ns, "compute", ideal * 1e-6, least)
        bits = layer.N * layer.P * layer.Q * layer.input_bits
        rows, columns = _rows(layer), self.columns(layer)
        full, rest = divmod(rows, self.rows)
        of_full, of_rest = (math.ceil(n / self.active_rows) for n in (self.rows, rest))
        busy = min(self.cols, columns * max(1, self._together(layer)))
        converting_ns = min(self.columns_per_adc, busy) / table["adc_gsps"]
        read_ns = bits * (of_full if full else of_rest) * max(table["read_ns"], converting_ns)
        passes = float(math.ceil(self.arrays_needed(layer) / self.arrays))
        if weights_stay and passes > 1:
            passes = math.inf
        writes = not weights_stay or layer.computed_weights
        fetched = layer.weight_count * layer.weight_bits * (writes and not layer.computed_weights)
        writing_ns = passes * self.rows * table["row_write_ns"] if writes else 0.0
        write_ns = max(writing_ns, fetched / table["dram_gbit_per_s"])
        ns = passes * read_ns + write_ns
        cells = layer.groups * rows * columns
        driven = bits * layer.groups * math.ceil(columns / self.cols) * rows
        conversions = bits * layer.groups * columns * (full * of_full + of_rest)
        conversion = (table["adc_pj"] + table["shift_add_pj"]) * (1 - table["static_share"]) + table["sample_pj"]
        energy = {
            "cells": bits * cells * table["cell_read_pj"],
            "drivers": driven * table["driver_pj"],
            "registers": driven * table["register_pj"],
            "converters": conversions * conversion,
            "buffers": buffers,
            "requantise": layer.output_count * table["requantise_pj"],
            "writes": cells * table["cell_write_pj"] * writes,
            "dram": fetched * table["dram_pj_per_bit"],
            "static": static * ns,
        }
        filled = cells / (self.arrays * self.rows * self.cols)
        least_ns = max(1.0, filled) * (read_ns + self.rows * table["row_write_ns"] * layer.computed_weights)
        rewritten = 0.0 if layer.computed_weights else energy["writes"] + energy["dram"]
        writing = "dram" if write_ns > writing_ns else "writes"
        reading = "converters" if converting_ns > table["read_ns"] else "cells"
        return FormCost(
            ns * 1e-6,
            energy,
            filled * read_ns / ns,
            reading if passes * read_ns >= write_ns else writing,
            least_ns * 1e-6,
            sum(value for name, value in energy.items() if name != "static") - rewritten + static * least_ns,
        )


def _rows(layer: Layer) -> int:
    """Rows of one group."""
    return layer.C // layer.groups * layer.R * layer.S


@dataclass(frozen=True)
class OperatingPoint:
    """A processor at one clock and supply voltage; nominal_v: the voltage that its leakage is given at."""

    name: ClassVar[str] = "processor"
    processor: str
    clock_mhz: float
    voltage: float
    nominal_v: float

    weight_bits: ClassVar[int] = -1

    @property
    def dynamic_w(self) -> float:
        """``C V^2 f``."""
        return unit_costs("processors")[f"{self.processor}.switched_nf"] * self.voltage**2 * self.clock_mhz * 1e-3

    @property
    def leakage_w(self) -> float:
        """In proportion to the voltage."""
        return unit_costs("processors")[f"{self.processor}.leakage_w"] * self.voltage / self.nominal_v

    def cost(self, layer: Layer, weights_stay: bool = False) -> FormCost:
        """The roofline itself: see the module; weights never stay."""
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
