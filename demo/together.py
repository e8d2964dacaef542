"""The demo's second part: fp8 weights, a LoRA, Velocity Forecast and Compile Model+ in one graph."""

from dataclasses import dataclass, field

import torch

from acceleration.report.quality import psnr_each
from demo.graph import painting
from demo.pictures import load
from dev.server import TINY_LORA, ComfyServer

PICTURES = (  # prompt, seed, LoRA strength
    ("a large blue triangle at the center on a yellow background", 7, 1.0),
    ("a small green square at the left on a black background", 8, 0.5),
)
PRECISION = "fp8 scaled"
SERVER_OPTIONS = ("--use-pytorch-cross-attention",)  # ComfyUI's attention for CPUs can't be compiled in one graph
COMPILING = "Compile Model+: compiling"


@dataclass
class Together:
    """Pictures of the stock graph with the LoRA and of all together, ComfyUI's seconds and compilations of each run."""

    stock: list[torch.Tensor] = field(default_factory=list)
    fast: list[torch.Tensor] = field(default_factory=list)
    stock_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    compilations: list[int] = field(default_factory=list)

    @property
    def quality(self) -> list[float]:
        """PSNR (dB) of each picture against the stock graph's."""
        return psnr_each(torch.stack(self.stock), torch.stack(self.fast))

    def text(self) -> str:
        """Return the comparison as text."""
        lines = [f"All together ({PRECISION}, LoRA, Velocity Forecast, Compile Model+), ComfyUI's seconds:"]
        rows = zip(self.stock_seconds, self.seconds, self.compilations, self.quality, strict=True)
        for (_, seed, strength), (stock, fast, compilations, quality) in zip(PICTURES, rows, strict=True):
            lines.append(
                f"  seed {seed}, LoRA {strength}: stock {stock:.2f}, all together {fast:.2f} "
                f"({compilations} kinds of blocks compiled), {quality:.1f} dB"
            )
        return "\n".join(lines)


def paint_together(server: ComfyServer) -> Together:
    """Paint each picture by the stock graph and by all together; the second finds the compiled blocks of the first."""
    result = Together()
    loras = [{"LoraLoaderModelOnly": {"lora_name": TINY_LORA, "strength_model": strength}} for *_, strength in PICTURES]
    for (prompt, seed, _), lora in zip(PICTURES, loras, strict=True):
        stock = server.run(painting(prompt, seed, lora))
        result.stock.append(load(stock.images[0]))
        result.stock_seconds.append(stock.seconds)
    for (prompt, seed, _), lora in zip(PICTURES, loras, strict=True):
        nodes = {**lora, "VelocityForecast": {"preset": "balanced"}, "VelocityCompileModel": {"mode": "default"}}
        compiled = server.log_text().count(COMPILING)
        fast = server.run(painting(prompt, seed, nodes, precision=PRECISION), timeout=600)
        result.fast.append(load(fast.images[0]))
        result.seconds.append(fast.seconds)
        result.compilations.append(server.log_text().count(COMPILING) - compiled)
    return result
