"""Model files for the loader's tests, all made of the trained tiny Flux, and how far a loaded model is from it."""

import functools
import json
import math
from pathlib import Path

import comfy.model_detection
import comfy.ops
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from safetensors.torch import load_file, save_file
from velocity_nodes.acceleration.precision.load_quantized import LoadConfig, load_diffusion_model

from demo.tiny_flux.codecs import encode_prompt
from dev.server import DEMO_PACK, TINY_MODEL

from .sampling import PROMPT

FILE = DEMO_PACK / TINY_MODEL  # in the layout of diffusers
QUANTIZING = [name for name in ("fp8 scaled", "fp8 fast", "mxfp8", "nvfp4", "int8") if name != "int8" or (
    "int8_tensorwise" in QUANT_ALGOS
)]  # fmt: skip


def load(path: Path = FILE, precision: str = "fp8 scaled", **settings: str) -> ModelPatcher:
    """Load with the pack."""
    return load_diffusion_model(str(path), LoadConfig(precision, **settings))


@functools.cache
def original() -> ModelPatcher:
    """The model as it is in the file. Only to be called: sampling with a LoRA would leave the LoRA in it."""
    return load(precision="as stored")


def core_fp8_fast() -> ModelPatcher:
    """Core's `fp8_e4m3fn_fast`, with its arithmetic although this is a CPU."""
    options = {"dtype": torch.float8_e4m3fn, "custom_operations": comfy.ops.fp8_ops}
    return comfy.sd.load_diffusion_model(str(FILE), model_options=options)


def flux_layout(folder: Path, prefix: str = "", dtype: torch.dtype | None = None, **more: torch.Tensor) -> Path:
    """Write the tiny Flux by the names that Flux itself has, and return the path. `more` are further tensors."""
    weights = comfy.model_detection.convert_diffusers_mmdit(load_file(FILE), "")
    weights = {prefix + name: value.to(dtype or value.dtype).contiguous() for name, value in weights.items()}
    return _write(folder / "tiny.safetensors", {**weights, **more})


def change(path: Path, name: str, value: float) -> Path:
    """Put `value` into one weight of a file."""
    weights = load_file(path)
    weights[name].view(-1)[3] = value
    return _write(path, weights)


def call(model: ModelPatcher, sigmas: tuple[float, ...] = (1.0, 0.5, 0.1)) -> torch.Tensor:
    """Return the outputs of the diffusion model for one noise at a few sigmas (S, 16, 16, 16)."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1, 16, 16, 16, generator=generator)
    tokens, pooled = encode_prompt(PROMPT)
    with torch.inference_mode():
        run = model.model.diffusion_model
        return torch.cat([run(x.clone(), torch.tensor([s]), tokens.clone(), pooled.clone()).float() for s in sigmas])


def error(model: ModelPatcher, reference: ModelPatcher) -> float:
    """Return the relative L2 error of the outputs."""
    expected = call(reference)
    return float((call(model) - expected).norm() / expected.norm())


def quantized_layers(model: ModelPatcher) -> dict[str, QuantizedTensor]:
    """Return the quantised weights of a model by the name of their layer."""
    modules = model.model.diffusion_model.named_modules()
    return {name: m.weight for name, m in modules if isinstance(getattr(m, "weight", None), QuantizedTensor)}


def same_weights(model: ModelPatcher, other: ModelPatcher) -> bool:
    """Whether both have the same weights, scales and marks, bit for bit."""
    a, b = (patcher.model.diffusion_model.state_dict() for patcher in (model, other))
    return a.keys() == b.keys() and all(torch.equal(a[name].float(), b[name].float()) for name in a)


def write_random(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Write a bf16 safetensors file of random weights piece by piece, whatever its size; return its bytes."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(header).encode()
    piece = (torch.randn(1 << 20) * 0.02).bfloat16().view(torch.uint8).numpy().tobytes()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for left in range(offset, 0, -len(piece)):
            file.write(piece[: min(left, len(piece))])
    return offset


def _write(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    save_file(weights, path)
    return path
