"""Benchmark tables: what a network costs on a device and how accurate it is, without hardware, training or download."""

from hwbench_data.table import Table, load

__all__ = ["Table", "load"]
