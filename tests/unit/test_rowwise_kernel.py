"""Row-wise fp8: the Triton kernel (interpreted, on the CPU) and its twin give the same bits, and what they promise."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from velocity_nodes.acceleration.precision.kernels import rowwise_fp8
from velocity_nodes.acceleration.precision.kernels.rowwise_fp8 import (
    LARGEST,
    _quantize_row,
    quantize_rows,
    quantize_rows_torch,
)

triton = pytest.importorskip("triton")
SCRIPT = Path(__file__).with_name("interpreted_kernel.py")
SHAPES = ((1, 1), (3, 7), (5, 64), (4, 1000), (2, 3073), (1, 16385), (0, 8))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def matrices() -> dict[str, torch.Tensor]:
    """Return odd shapes in each dtype with magnitudes over seven decades, every rounding case, and broken rows."""
    draw = torch.Generator().manual_seed(0)
    found = {}
    for dtype in DTYPES:
        for rows, length in SHAPES:
            values = torch.randn(rows, length, generator=draw) * torch.logspace(-4, 3, length)
            found[f"{dtype} {rows} {length}"] = values.to(dtype)
    # Scale 1 (the largest is 448): all halves between two codes, which must round to even, and their neighbours.
    codes = torch.arange(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    halves = (codes[1:] + codes[:-1]) / 2
    beside = [halves, halves.nextafter(torch.tensor(0.0)), halves.nextafter(torch.tensor(1e9)), codes]
    found["rounding"] = torch.cat([torch.cat(beside), -torch.cat(beside)])[None]
    infinity, nan = float("inf"), float("nan")
    found["broken"] = torch.tensor(
        [[1, nan, 2], [1, infinity, 0], [-infinity, 2, nan], [0, 0, 0], [1e-42, 0, -1e-42], [3e38, -1, 1e-38]]
    )
    return found


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What the kernel makes of `matrices`."""
    folder = tmp_path_factory.mktemp("kernel")
    save_file(matrices(), folder / "in.safetensors")
    command = [sys.executable, str(SCRIPT), str(folder / "in.safetensors"), str(folder / "out.safetensors")]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "out.safetensors")


@pytest.mark.parametrize("name", matrices())
def test_kernel_equals_twin_bit_for_bit(interpreted: dict[str, torch.Tensor], name: str) -> None:
    """Of a NaN only that it is one counts: processors sign it as they like."""
    q, scale = quantize_rows_torch(matrices()[name])
    bits, expected = interpreted[f"{name}.q"].view(torch.uint8), q.view(torch.uint8)
    nan = q.float().isnan()
    assert torch.equal(bits[~nan], expected[~nan])
    assert (bits[nan] & 0x7F == 0x7F).all()
    assert torch.equal(interpreted[f"{name}.scale"].nan_to_num(-1.0), scale.nan_to_num(-1.0))


def test_rounds_as_torch_does() -> None:
    """At scale 1 the codes are those of torch's own cast, the halves included."""
    matrix = matrices()["rounding"]
    q, scale = quantize_rows(matrix)
    assert scale.item() == 1.0
    assert torch.equal(q.float(), matrix.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float())


def test_error_is_bounded_by_the_row_not_by_its_neighbours() -> None:
    """A row a million times larger costs the others nothing."""
    matrix = torch.randn(4, 512, generator=torch.Generator().manual_seed(1))
    loud = torch.cat([matrix, 1e6 * matrix[:1]])
    q, scale = quantize_rows(loud)
    alone, alone_scale = quantize_rows(matrix)
    assert torch.equal(q[:4].view(torch.uint8), alone.view(torch.uint8)) and torch.equal(scale[:4], alone_scale)
    error = (q.float() * scale - loud).norm(dim=1) / loud.norm(dim=1)
    assert 0.01 < error.min() and error.max() < 0.03  # 3 bits of mantissa


def test_broken_and_empty_rows() -> None:
    """Zeros have a positive scale; NaN and infinity make their row's scale NaN or infinite and leave the others."""
    _, scale = quantize_rows(matrices()["broken"])
    assert scale[:3].isfinite().logical_not().all()
    assert scale[3:].isfinite().all() and (scale > 0)[3:].all()
    q, scale = quantize_rows(torch.zeros(0, 8))
    assert q.shape == (0, 8) and scale.shape == (0, 1)
    with pytest.raises(ValueError, match="reshape it first"):
        quantize_rows(torch.zeros(2, 3, 4))


def test_strided_rows() -> None:
    """A transposed or sliced view gives what its copy gives."""
    base = torch.randn(40, 30, generator=torch.Generator().manual_seed(2))
    for view in (base.t(), base[::2, 3:17]):
        q, scale = quantize_rows(view)
        copied, copied_scale = quantize_rows(view.clone(memory_format=torch.contiguous_format))
        assert torch.equal(q.float(), copied.float()) and torch.equal(scale, copied_scale)


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that an operation makes."""

    bytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            self.bytes = max(self.bytes, tensor.nbytes)
        return result


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_twin_needs_little_memory(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the way nothing is larger than the result, in several parts that give what one gives; the input stays."""
    matrix = torch.randn(1000, 64, generator=torch.Generator().manual_seed(4)).to(dtype)
    before, (whole, whole_scale) = matrix.clone(), quantize_rows_torch(matrix)
    monkeypatch.setattr(rowwise_fp8, "CHUNK", 64 * 64)
    with Largest() as largest:
        q, scale = quantize_rows_torch(matrix)
    assert largest.bytes == q.nbytes
    assert torch.equal(q.view(torch.uint8), whole.view(torch.uint8)) and torch.equal(scale, whole_scale)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("capability", [80, 89, 90, 100, 120])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_compiles_to_machine_code(capability: int, dtype: str) -> None:
    """Triton's whole compiler accepts the kernel for each generation of cards; needs no GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {"x_pointer": f"*{dtype}", "q_pointer": "*u8", "scale_pointer": "*fp32", "length": "i32"}
    constants = {"block": 4096, "smallest_scale": 2.0**-100, "inverse_largest": 1 / LARGEST}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(_quantize_row, signature, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})
    assert len(compiled.asm["cubin"]) > 1000
    assert "div.rn.f32" in compiled.asm["ptx"]  # not the approximate division
