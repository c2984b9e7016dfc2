"""Arrays and tensors travel apart from the structure, and are read in place."""

import numpy as np
import pytest
import torch

pytest.importorskip("ray")

from cosearch.distributed.packing import pack, unpack


def test_arrays_and_tensors_are_read_where_they_lie():
    value = {"array": np.arange(1000.0), "tensor": torch.arange(1000.0), "layer": torch.nn.Linear(30, 40)}
    packed = pack(value)
    assert len(packed[0]) < 5000
    again = unpack(packed)
    np.testing.assert_array_equal(again["array"], value["array"])
    assert torch.equal(again["tensor"], value["tensor"])
    assert torch.equal(again["layer"].weight, value["layer"].weight)
    assert isinstance(again["layer"].weight, torch.nn.Parameter)
    for found in (again["array"], again["tensor"].numpy(), again["layer"].weight.detach().numpy()):
        assert any(np.shares_memory(found, buffer) for buffer in packed[1])


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (2, 3), ()])
def test_the_memory_format_is_kept(shape):
    tensor = torch.randn(shape)
    if tensor.ndim == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    again = unpack(pack(tensor))
    assert torch.equal(again, tensor)
    assert again.stride() == tensor.stride()


def test_a_slice_is_packed_without_its_whole():
    [again] = unpack(packed := pack([torch.arange(100_000)[10:20]]))
    assert again.tolist() == list(range(10, 20))
    assert sum(buffer.nbytes for buffer in packed[1]) == 80


def test_mapped_files_travel_as_arrays(tmp_path):
    np.save(tmp_path / "tensor.npy", np.arange(5000.0))
    packed = pack(np.load(tmp_path / "tensor.npy", mmap_mode="r"))
    assert len(packed[0]) < 1000
    again = unpack(packed)
    assert type(again) is np.ndarray
    np.testing.assert_array_equal(again, np.arange(5000.0))
