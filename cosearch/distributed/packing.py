"""Values as Ray moves them: the structure as bytes, every array and tensor apart, so that workers read them in place.

Ray maps numpy arrays from its object store into each worker of a node without a copy; torch tensors and memory-mapped
arrays it would copy into the bytes. What `unpack` gives must not be written to.
"""

import io
import pickle
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from ray import cloudpickle

Packed = tuple[bytes, list[npt.NDArray[np.uint8]]]


def pack(value: Any) -> Packed:
    """Tensors come back on the CPU, in the memory format they have."""
    buffers: list[pickle.PickleBuffer] = []
    structure = io.BytesIO()
    _Packer(structure, protocol=5, buffer_callback=buffers.append).dump(value)
    return structure.getvalue(), [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]


def unpack(packed: Packed) -> Any:
    return pickle.loads(packed[0], buffers=packed[1])


class _Packer(cloudpickle.CloudPickler):
    def reducer_override(self, obj: Any) -> Any:
        import torch

        if type(obj) is torch.Tensor:
            return _tensor, _array(obj)
        if isinstance(obj, np.memmap):
            return np.asarray, (obj.view(np.ndarray),)
        return super().reducer_override(obj)


def _array(tensor: Any) -> tuple[npt.NDArray[Any], bool]:
    """The values, and whether channels come last: sums in another order would round otherwise."""
    import torch

    tensor = tensor.detach().cpu()
    channels_last = (
        tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    return (tensor.permute(0, 2, 3, 1) if channels_last else tensor.contiguous()).numpy(), channels_last


def _tensor(array: npt.NDArray[Any], channels_last: bool) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the array is read-only is known
        tensor = torch.from_numpy(array)
    return tensor.permute(0, 3, 1, 2) if channels_last else tensor
