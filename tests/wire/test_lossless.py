"""Tensors come back bit for bit in their dtype and shape, and travel in the smallest form that allows it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from velocity_nodes.remote.wire.blob import BlobError
from velocity_nodes.remote.wire.lossless import DTYPES, Shrunk, restore, shrink

SHAPES = [(), (0,), (1,), (7,), (1, 1, 1), (2, 0, 3), (0, 4, 2), (2, 5, 3), (3, 2), (1, 2, 3, 4), (1, 2, 1, 3, 2)]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Any bits, as far as they make finite numbers."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel()
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    raw = torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8, generator=generator)
    tensor = raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
    if not dtype.is_floating_point:
        return tensor
    wide = tensor.double()
    return torch.where(wide.isfinite(), wide, torch.ones_like(wide)).to(dtype)


def assert_round_trip(tensor: torch.Tensor) -> Shrunk:
    shrunk = shrink(tensor)
    assert shrunk.data is None or shrunk.data.is_contiguous()
    back = restore(shrunk, tensor.dtype, list(tensor.shape))
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert bits(back) == bits(tensor)
    assert not back.requires_grad
    return shrunk


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_dtype_and_shape_comes_back(dtype, shape):
    tensor = random_tensor(dtype, shape)
    assert_round_trip(tensor)
    assert_round_trip(torch.zeros(shape, dtype=dtype))
    assert_round_trip(torch.ones(shape, dtype=dtype))


@settings(max_examples=300, deadline=None)
@given(
    dtype=st.sampled_from(list(DTYPES.values())),
    shape=st.lists(st.integers(0, 4), max_size=5),
    seed=st.integers(0, 1 << 30),
    zero_rows=st.integers(0, 3),
    values=st.sampled_from(["random", "small", "bf16", "signed zeros"]),
    permuted=st.booleans(),
)
def test_any_tensor_comes_back(dtype, shape, seed, zero_rows, values, permuted):
    tensor = random_tensor(dtype, tuple(shape), seed)
    if values == "small" and dtype != torch.bool:
        tensor = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    elif values == "bf16" and dtype.is_floating_point:
        tensor = torch.where(tensor.bfloat16().isfinite(), tensor.bfloat16(), 1.0).to(dtype)
    elif values == "signed zeros" and dtype.is_floating_point:
        tensor = torch.where(tensor.double() > 0, 0.0, -0.0).to(dtype)
    if zero_rows and len(shape) == 3:
        tensor = torch.cat([tensor, torch.zeros(shape[0], zero_rows, shape[2], dtype=dtype)], dim=1)
    assert_round_trip(tensor.permute(tuple(reversed(range(tensor.ndim)))) if permuted else tensor)


@pytest.mark.parametrize("fill", [0.0, -0.0, 1.0, 0.1, -3.5, 1e-40])
@pytest.mark.parametrize("shape", [(), (1,), (1, 16, 8, 8)], ids=str)
def test_one_value_everywhere_needs_no_data(fill, shape):
    shrunk = assert_round_trip(torch.full(shape, fill))
    assert shrunk.data is None


def test_zeros_of_both_signs_are_not_one_value():
    assert assert_round_trip(torch.tensor([0.0, -0.0])).data is not None
    rows = torch.ones(1, 4, 3)
    rows[:, 2:] = -0.0
    assert assert_round_trip(rows).rows is None, "-0.0 was left out as if it were 0.0"


def test_zero_rows_behind_every_prompt_of_the_batch_are_left_out():
    rows = torch.zeros(2, 512, 16)
    rows[0, :3], rows[1, :60] = torch.randn(3, 16), torch.randn(60, 16)
    shrunk = assert_round_trip(rows)
    assert (shrunk.rows, tuple(shrunk.data.shape)) == (60, (2, 60, 16))
    rows[0, -1, -1] = 1e-30
    assert assert_round_trip(rows).rows is None


@pytest.mark.parametrize(
    ("make", "travels_as"),
    [
        (lambda: torch.randn(64).bfloat16().float(), torch.bfloat16),
        (lambda: torch.randn(64).half().float(), torch.float16),
        (lambda: torch.randn(64), torch.float32),
        (lambda: torch.randn(64).double(), torch.float32),
        (lambda: torch.randn(64, dtype=torch.float64), torch.float64),
        (lambda: torch.randn(64).bfloat16(), torch.bfloat16),
        (lambda: torch.arange(64), torch.uint8),
        (lambda: torch.arange(64) - 1, torch.int16),
        (lambda: torch.arange(64) * 1000, torch.int32),
        (lambda: torch.arange(64) << 40, torch.int64),
        (lambda: torch.tensor([1.0, 65520.0]), torch.float32),  # rounds to infinity in float16
        (lambda: torch.tensor([1.0, 3.4e38]), torch.float32),  # and this one in bfloat16
        (lambda: torch.tensor([1.0, 1e-45]), torch.float32),
    ],
)
def test_a_smaller_dtype_only_where_it_is_exact(make, travels_as):
    assert assert_round_trip(make()).data.dtype == travels_as


def test_views_and_parameters():
    base = torch.randn(4, 6, 8)
    for tensor in (base[:, ::2, 1:], base.transpose(0, 2), base[1].expand(3, 6, 8), base.flip(1)):
        assert_round_trip(tensor)
    assert_round_trip(torch.nn.Parameter(base))
    assert_round_trip(base.clone().requires_grad_() * 2)
    base.fill_(7)
    assert shrink(base).data is None


@pytest.mark.parametrize(
    ("shrunk", "dtype", "shape"),
    [
        (Shrunk(None, float("nan"), None), torch.float32, [2]),
        (Shrunk(None, float("inf"), None), torch.float32, [2]),
        (Shrunk(None, 1e39, None), torch.float32, [2]),
        (Shrunk(None, 1e6, None), torch.float16, [2]),
        (Shrunk(None, 10**400, None), torch.float64, [2]),
        (Shrunk(None, 1 << 63, None), torch.int64, [2]),
        (Shrunk(None, 300, None), torch.uint8, [2]),
        (Shrunk(None, 0.5, None), torch.int64, [2]),
        (Shrunk(None, 2, None), torch.bool, [2]),
        (Shrunk(None, "0", None), torch.float32, [2]),
        (Shrunk(None, None, None), torch.float32, [2]),
        (Shrunk(torch.ones(2), None, None), torch.float32, [3]),
        (Shrunk(torch.ones(2), None, None), torch.float16, [2]),
        (Shrunk(torch.ones(2, dtype=torch.float16), None, None), torch.bfloat16, [2]),
        (Shrunk(torch.ones(2, dtype=torch.int64), None, None), torch.float32, [2]),
        (Shrunk(torch.ones(1, 2, 3), None, 2), torch.float32, [1, 1, 3]),
        (Shrunk(torch.ones(1, 2, 3), None, 1), torch.float32, [1, 4, 3]),
        (Shrunk(torch.ones(1, 2, 3), None, -2), torch.float32, [1, 4, 3]),
        (Shrunk(torch.ones(1, 2, 3), None, True), torch.float32, [1, 4, 3]),
        (Shrunk(torch.ones(1, 2, 3), None, "2"), torch.float32, [1, 4, 3]),
        (Shrunk(torch.ones(2, 3), None, 2), torch.float32, [4, 3]),
    ],
)
def test_what_does_not_fit_together_is_refused(shrunk, dtype, shape):
    with pytest.raises(BlobError):
        restore(shrunk, dtype, shape)
