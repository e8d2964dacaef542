"""A tensor as a blob, and back."""

import torch

from .blob import MAX_HEADER, BlobError, encode_header, read_header
from .lossless import SAFETENSORS_NAMES


def tensor_blob(tensor: torch.Tensor) -> bytes:
    """Return the bytes of the blob that holds a contiguous CPU tensor."""
    header = encode_header(SAFETENSORS_NAMES[tensor.dtype], tuple(tensor.shape))
    return header + tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else header


def blob_tensor(data: bytes) -> torch.Tensor:
    """Return the tensor of a blob, on the CPU. Raises `BlobError`."""
    header = read_header(data[: 8 + MAX_HEADER])
    if len(data) - header.start != header.data_bytes:
        raise BlobError(f"{len(data) - header.start} bytes of data, and the header says {header.data_bytes}")
    dtype = next(dtype for dtype, name in SAFETENSORS_NAMES.items() if name == header.dtype)
    if not header.data_bytes:
        return torch.empty(header.shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(memoryview(data)[header.start :]), dtype=torch.uint8)
    if dtype == torch.bool and flat.max() > 1:
        raise BlobError("a boolean is neither 0 nor 1")
    return flat.view(dtype).reshape(header.shape)
