"""Quantise each row to float8_e4m3fn with a scale of its own: absolute maximum, scale and saturating cast in one pass.

The Triton kernel keeps a row in registers between the maximum and the cast, so memory is read once and written once.
The twin computes the same bits in plain torch. Neither is for torch.compile to look into: inductor makes two kernels of
the twin, and the second computes the activation before it again, so on an H100 one custom kernel was faster.

Invariants: rows do not see each other. A row of zeros has a positive scale. A NaN or an infinity makes the scale of its
row NaN or infinite, so that no product with that row is finite; it never turns into a number. e4m3 has no infinity.
"""

import functools

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # Windows, macOS and CPU builds of torch come without it
    triton = None

LARGEST = torch.finfo(torch.float8_e4m3fn).max  # 448
INVERSE_LARGEST = 1.0 / LARGEST  # multiplied with: torch divides by a constant differently on CPU and CUDA
SMALLEST_SCALE = 2.0**-100  # keeps scale and 1 / scale normal numbers, whatever flushes denormals
LONGEST_ROW = 65536  # elements that 32 warps hold in registers
CHUNK = 2**24  # elements that the twin turns into float32 at a time: 64 MiB


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `x` (M, K), any float dtype and strides, as q (M, K) float8_e4m3fn and scale (M, 1) float32.

    q * scale is near x: within 1/16 of each element that is not tiny beside the row's largest. K must not be 0
    (`ValueError`).
    """
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"quantize_rows wants a matrix (M, K) with K > 0, not {tuple(x.shape)}; reshape it first")
    if not _kernel_can(x):
        return quantize_rows_torch(x)
    return quantize_rows_triton(x)


def quantize_rows_torch(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The twin, in plain torch; arguments and result as in `quantize_rows`.

    Some rows at a time: on the way are five bytes an element, which a video's activations have no room for.
    """
    q = torch.empty(x.shape, device=x.device, dtype=torch.float8_e4m3fn)
    scale = torch.empty(len(x), 1, device=x.device, dtype=torch.float32)
    rows = max(1, CHUNK // x.shape[1])
    for part, q_part, scale_part in zip(x.split(rows), q.split(rows), scale.split(rows), strict=True):
        least, most = torch.aminmax(part, dim=1, keepdim=True)
        peak = torch.maximum(-least, most).float()
        scale_part.copy_((peak * INVERSE_LARGEST).clamp(min=SMALLEST_SCALE))  # NaN stays NaN
        values = part.to(torch.float32, copy=True).mul_(1.0 / scale_part)
        q_part.copy_(values.clamp_(-LARGEST, LARGEST))
    return q, scale


def quantize_rows_triton(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel, one program per row; arguments and result as in `quantize_rows`."""
    x = x.contiguous()
    rows, length = x.shape
    q = torch.empty_like(x, dtype=torch.uint8)
    scale = torch.empty(rows, 1, device=x.device, dtype=torch.float32)
    if rows:
        block = triton.next_power_of_2(length)
        warps = max(block // 2048, 1)  # 64 elements for each thread, the fastest on an H200
        _quantize_row[(rows,)](x, q, scale, length, block, SMALLEST_SCALE, INVERSE_LARGEST, num_warps=warps)
    return q.view(torch.float8_e4m3fn), scale


def _kernel_can(x: torch.Tensor) -> bool:
    """Triton compiles for Ampere and newer; the kernel does the cast in integers, so no fp8 is needed. On AMD's cards
    it was never tried."""
    if triton is None or x.device.type != "cuda" or torch.version.hip is not None or x.shape[1] > LONGEST_ROW:
        return False
    return not is_stand_in(x) and capability(x.device) >= (8, 0)


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """Return what a CUDA device is capable of; asked for in each product, and torch takes its time."""
    return torch.cuda.get_device_capability(device)


def is_stand_in(x: torch.Tensor) -> bool:
    """Whether `x` is a tensor without numbers, by which the compiler traces."""
    return type(x) not in (torch.Tensor, torch.nn.Parameter)


if triton is not None:

    @triton.jit
    def _quantize_row(
        x_pointer,
        q_pointer,
        scale_pointer,
        length,
        block: tl.constexpr,
        smallest_scale: tl.constexpr,
        inverse_largest: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        columns = tl.arange(0, block)
        inside = columns < length
        values = tl.load(x_pointer + row * length + columns, mask=inside, other=0.0).to(tl.float32)
        # As integers the bits of positive floats are in the same order, with NaN above infinity: it can't get lost.
        peak = tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0).to(tl.float32, bitcast=True)
        scale = peak * inverse_largest
        scale = tl.where(scale < smallest_scale, smallest_scale, scale)
        code = _encode_e4m3(values * tl.div_rn(1.0, scale))
        tl.store(q_pointer + row * length + columns, code, mask=inside)
        tl.store(scale_pointer + row, scale)

    @triton.jit
    def _encode_e4m3(values):
        """float32 to the bits (uint8) of e4m3, nearest even, saturated at 448; Triton's interpreter rounds its own
        cast wrongly, and cards before Ada have none."""
        bits = values.to(tl.int32, bitcast=True)
        magnitude = bits & 0x7FFFFFFF
        # Rebias the exponent (127 to 7) and round 23 bits of mantissa to 3.
        normal = (magnitude - (120 << 23) + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20
        # Below 2^-6 the steps are 2^-9, those of a float at 2^14: the addition rounds.
        shifted = magnitude.to(tl.float32, bitcast=True) + 16384.0
        subnormal = shifted.to(tl.int32, bitcast=True) - (141 << 23)
        code = tl.where(magnitude < (121 << 23), subnormal, normal)
        code = tl.where(magnitude > 0x43E00000, 0x7E, code)  # 448
        code = tl.where(magnitude > 0x7F800000, 0x7F, code)  # NaN
        return (code | ((bits >> 24) & 0x80)).to(tl.uint8)
