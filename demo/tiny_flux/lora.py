"""Write the demo's LoRA: `python -m demo.tiny_flux.lora`. It is no style, only a seeded change of nine layers.

Rank 4 on the output layer of each single block, about a tenth of the weights' norm at strength 1.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

FILE = Path(__file__).with_name("tiny_flux_lora.safetensors")
BLOCKS, OUT, IN, RANK = 9, 128, 640, 4
SIZE = 0.03  # standard deviation of an entry of each factor's product is SIZE**2 * sqrt(RANK)


def main() -> None:
    """Write the file."""
    generator = torch.Generator().manual_seed(0)

    def factor(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * SIZE).half()

    tensors = {}
    for block in range(BLOCKS):
        layer = f"diffusion_model.single_blocks.{block}.linear2"
        tensors[f"{layer}.lora_up.weight"] = factor(OUT, RANK)
        tensors[f"{layer}.lora_down.weight"] = factor(RANK, IN)
        tensors[f"{layer}.alpha"] = torch.tensor(float(RANK))
    save_file(tensors, FILE)


if __name__ == "__main__":
    main()
