"""What First Block Cache keeps of a block's output, and how precisely it compares it."""

import pytest
import torch
from velocity_nodes.acceleration.blocks.architectures import Stack
from velocity_nodes.acceleration.blocks.block_call import BlockCall, Place
from velocity_nodes.acceleration.caching.first_block_cache import MOST_TOKENS, _StopForward, _thin, _Watch

from .test_first_block_every_model import call_at, host_of


class Add(torch.nn.Module):
    """Adds in place what the test says."""

    def __init__(self, residual: torch.Tensor) -> None:
        super().__init__()
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(self.residual)


def metric_of(residuals: dict[float, torch.Tensor], stream: torch.Tensor) -> float:
    """Show residuals to the technique as the first block's, by time; return what it says of the last one."""
    technique = host_of(None, residual_diff_threshold=1e30).technique
    *full, last = residuals
    for time in residuals:
        technique._begin(call_at(time), deciding=time == last)
        call = BlockCall(Add(residuals[time]), Place(Stack("blocks", ("x",)), 0, 0, 2), (stream.clone(),), {})
        try:
            _Watch(technique, (0, (), 0), len(stream)).visit(call)
        except _StopForward:
            assert time == last
    return technique.metric


def test_a_steady_change_is_no_difference_in_bfloat16_either():
    """Each residual is a number that bfloat16 has; one and a half times the second less half of the first is not."""
    first = torch.arange(129, 250, dtype=torch.float32).expand(1, 4, -1) / 128
    residuals = {0.9: first, 0.8: first + 2 / 128, 0.75: first + 3 / 128}
    narrow = {time: residual.to(torch.bfloat16) for time, residual in residuals.items()}
    assert all(torch.equal(narrow[time].float(), residual) for time, residual in residuals.items())
    assert metric_of(narrow, torch.zeros_like(narrow[0.9])) < 1e-6


@pytest.mark.parametrize(
    "shape",
    [(1, 24, 45, 80, 2048), (2, 75600, 5120), (1, 128, 128, 320), (1, 4096, 3072), (1, 1000, 64), (3, 64)],
    ids=["Cosmos-Predict2 720p", "Wan 720p", "SDXL", "Flux", "few tokens", "one token"],
)
def test_a_probe_is_small_for_every_shape_of_stream(shape: tuple[int, ...]):
    probe = _thin(torch.empty(shape, device="meta", dtype=torch.bfloat16))
    tokens = torch.Size(shape[1:-1]).numel() if len(shape) > 2 else 1
    assert probe.dtype == torch.float32 and probe.shape[0] == shape[0] and probe.shape[-1] == shape[-1]
    assert min(tokens, MOST_TOKENS) <= probe.shape[1] < 2 * MOST_TOKENS
    assert probe.is_contiguous()  # nothing of the stream stays alive behind it
