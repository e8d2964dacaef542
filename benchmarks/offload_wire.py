"""How many bytes the wire takes for tensors of real models' sizes, beside what is in them. No server is needed.

Shapes are those of ComfyUI's latent formats and text encoders. Text encoders run in 16 bits and hand out fp32, so that
half of every number is zeros; with a mask (umt5) what follows the prompt is zero too; an empty latent is all zeros.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from velocity_nodes.remote.wire.blob import blob_name
from velocity_nodes.remote.wire.values import pack, unpack

BF16, FP16, FP32, ZEROS, STEP = "bf16", "fp16", "fp32", "zeros", "step"


@dataclass(frozen=True)
class Part:
    """One tensor that ComfyUI holds as fp32: its shape and what its numbers are; `live` rows, the others zero.

    `zeros`: all zero. `step`: a mask of zeros and then ones.
    """

    shape: tuple[int, ...]
    numbers: str
    live: int | None = None

    @property
    def fp32_bytes(self) -> int:
        """The size of the tensor."""
        return 4 * math.prod(self.shape)

    @property
    def least_bytes(self) -> int:
        """The size of the numbers in it that have to be told; a mask's are counted in 16 bits."""
        rows = self.shape[1] if self.live is None else self.live
        size = {ZEROS: 0, FP32: 4}.get(self.numbers, 2)
        return size * math.prod(self.shape) * rows // self.shape[1]

    def tensor(self, generator: torch.Generator) -> torch.Tensor:
        """Return such a tensor, random."""
        if self.numbers == ZEROS:
            return torch.zeros(self.shape)
        if self.numbers == STEP:
            mask = torch.ones(self.shape)
            mask[:, :, :1] = 0
            return mask
        numbers = torch.randn(self.shape, generator=generator)
        if self.numbers != FP32:
            numbers = numbers.to({BF16: torch.bfloat16, FP16: torch.float16}[self.numbers]).float()
        if self.live is not None:
            numbers[:, self.live :] = 0
        return numbers


TEXT, LATENT = "conditioning", "latent"
WAN_480, WAN_720 = (1, 16, 21, 60, 104), (1, 16, 21, 90, 160)
TABLE: tuple[tuple[str, str, tuple[Part, ...]], ...] = (
    (TEXT, "SDXL", (Part((1, 77, 2048), FP16), Part((1, 1280), FP16))),
    (TEXT, "FLUX.1, T5", (Part((1, 256, 4096), BF16), Part((1, 768), BF16))),
    (TEXT, "FLUX.1, T5 that ran in fp32", (Part((1, 256, 4096), FP32), Part((1, 768), FP32))),
    (TEXT, "Wan, umt5, 60 of 512 tokens", (Part((1, 512, 4096), BF16, live=60),)),
    (TEXT, "Qwen-Image", (Part((1, 100, 3584), BF16),)),
    (TEXT, "Qwen-Image edit, with image tokens", (Part((1, 1500, 3584), BF16),)),
    (TEXT, "FLUX.2 klein 4B", (Part((1, 512, 7680), BF16),)),
    (TEXT, "FLUX.2 klein 9B", (Part((1, 512, 12288), BF16),)),
    (TEXT, "FLUX.2 dev", (Part((1, 512, 15360), BF16),)),
    (TEXT, "Wan i2v 480p: picture and mask", (Part(WAN_480, FP32), Part((1, 1, *WAN_480[2:]), STEP))),
    (TEXT, "Wan i2v 720p: picture and mask", (Part(WAN_720, FP32), Part((1, 1, *WAN_720[2:]), STEP))),
    (TEXT, "Wan i2v: CLIP vision", (Part((1, 257, 1280), FP16),)),
    (LATENT, "empty, FLUX.1 1024 x 1024", (Part((1, 16, 128, 128), ZEROS),)),
    (LATENT, "empty, Wan 2.1 1280 x 720, 81 frames", (Part(WAN_720, ZEROS),)),
    (LATENT, "empty, HunyuanVideo 720p, 129 frames", (Part((1, 16, 33, 90, 160), ZEROS),)),
    (LATENT, "SDXL 1024 x 1024", (Part((1, 4, 128, 128), FP32),)),
    (LATENT, "FLUX.1 1024 x 1024", (Part((1, 16, 128, 128), FP32),)),
    (LATENT, "FLUX.2 1024 x 1024", (Part((1, 128, 64, 64), FP32),)),
    (LATENT, "Wan 2.1 832 x 480, 81 frames", (Part(WAN_480, FP32),)),
    (LATENT, "Wan 2.1 1280 x 720, 81 frames", (Part(WAN_720, FP32),)),
    (LATENT, "Wan 2.2 5B 1280 x 704, 121 frames", (Part((1, 48, 31, 44, 80), FP32),)),
    (LATENT, "HunyuanVideo 720p, 129 frames", (Part((1, 16, 33, 90, 160), FP32),)),
)


def measure_wire() -> list[dict[str, Any]]:
    """Return a row for each line of the table; sizes in bytes. `sent` has the packed value's JSON in it too."""
    generator = torch.Generator().manual_seed(4)
    rows = []
    for kind, name, parts in TABLE:
        row = {"kind": kind, "name": name, "shapes": [list(part.shape) for part in parts]}
        row["fp32"] = sum(part.fp32_bytes for part in parts)
        row["sent"] = sent_bytes([part.tensor(generator) for part in parts])
        row["least"] = sum(part.least_bytes for part in parts)
        row["ratio"] = row["sent"] / row["least"] if row["least"] else None
        rows.append(row)
    return rows


def sent_bytes(value: Any) -> int:
    """Return how many bytes of JSON and blobs `value` is on its way. Raises `RuntimeError` if it comes back changed."""
    blobs: dict[str, bytes] = {}

    def add(data: bytes) -> str:
        blobs[blob_name(data)] = data
        return blob_name(data)

    packed = pack(value, add)
    for before, behind in zip(value, unpack(packed, blobs.__getitem__), strict=True):
        if before.dtype != behind.dtype or not torch.equal(before, behind):
            raise RuntimeError("a tensor came back changed from pack() and unpack()")
    return len(json.dumps(packed, separators=(",", ":"))) + sum(map(len, blobs.values()))
