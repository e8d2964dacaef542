"""Train the tiny model again: `python -m demo.tiny_flux.train --minutes 50 --output tiny_flux_shapes.safetensors`.

A FLUX-architecture flow-matching transformer learns from pictures drawn on the fly; there is no other data. It takes
under an hour on two CPU cores. Needs `diffusers`, whose model class is trained; ComfyUI reads the result by itself.
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from .codecs import encode_image, encode_prompt
from .drawing import draw, random_scene

BATCH = 32
SIDE = 8  # tokens per side: 64 pixels / 4 per latent cell / 2 cells per token


def build_model() -> torch.nn.Module:
    """Return the untrained transformer (4.1 M parameters). Raises `RuntimeError` when diffusers is missing."""
    try:
        from diffusers import FluxTransformer2DModel
    except ImportError as error:
        raise RuntimeError("training needs the diffusers package: pip install diffusers, then try again") from error
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=3,
        num_single_layers=9,
        attention_head_dim=128,
        num_attention_heads=1,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        guidance_embeds=False,
        axes_dims_rope=(16, 56, 56),
    )


def patchify(latent: torch.Tensor) -> torch.Tensor:
    """Return FLUX tokens (B, h/2 * w/2, 4C) of `latent` (B, C, h, w): one token per 2x2 cells."""
    batch, channels, height, width = latent.shape
    cells = latent.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def position_ids(side: int) -> torch.Tensor:
    """Return the rotary position ids (side * side, 3): 0, row, column."""
    ids = torch.zeros(side, side, 3)
    ids[..., 1] = torch.arange(side)[:, None]
    ids[..., 2] = torch.arange(side)[None]
    return ids.reshape(-1, 3)


def batch_of_scenes() -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens of drawn pictures (B, 64, 64) and of their prompts (B, 12, 64)."""
    scenes = [random_scene() for _ in range(BATCH)]
    images = torch.stack([draw(scene, wobble=True) for scene in scenes])
    return patchify(encode_image(images)), torch.cat([encode_prompt(scene.prompt())[0] for scene in scenes])


def flow_loss(model: torch.nn.Module) -> torch.Tensor:
    """Return the flow-matching loss of one batch: the model predicts noise minus picture."""
    picture, text = batch_of_scenes()
    noise = torch.randn_like(picture)
    sigma = torch.sigmoid(torch.randn(BATCH))
    mixed = torch.lerp(picture, noise, sigma[:, None, None])
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model(
            hidden_states=mixed,
            encoder_hidden_states=text,
            pooled_projections=text.mean(1),
            timestep=sigma,
            img_ids=position_ids(SIDE),
            txt_ids=torch.zeros(text.shape[1], 3),
        ).sample
    return ((velocity.float() - (noise - picture)) ** 2).mean()


def learning_rate(step: int, fraction: float) -> float:
    """Return the rate: 100 steps of warm-up, then a cosine down to 2 percent at the end of the time."""
    return 1.2e-3 * min(1.0, (step + 1) / 100) * (0.98 * 0.5 * (1 + math.cos(math.pi * fraction)) + 0.02)


def train(minutes: float, output: Path) -> None:
    """Train for `minutes` and write the averaged weights (bf16) to `output`, every 500 steps and at the end."""
    model = build_model()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    start, step, fraction, shown = time.monotonic(), 0, 0.0, None
    while fraction < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, fraction)
        loss = flow_loss(model)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - min(0.995, (step + 1) / (step + 10)))
        shown = loss.item() if shown is None else 0.98 * shown + 0.02 * loss.item()
        step += 1
        fraction = (time.monotonic() - start) / (60 * minutes)
        if step % 50 == 0 or fraction >= 1:
            print(f"step {step}, loss {shown:.4f}, {fraction:.0%} of the time", flush=True)
        if step % 500 == 0 or fraction >= 1:
            save_file({name: value.to(torch.bfloat16).contiguous() for name, value in average.items()}, output)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train the tiny FLUX model of the demo.")
    parser.add_argument("--minutes", type=float, default=50, help="how long to train (default: 50)")
    parser.add_argument("--output", type=Path, default=Path("tiny_flux_shapes.safetensors"), help="file to write")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    train(arguments.minutes, arguments.output)


if __name__ == "__main__":
    main()
