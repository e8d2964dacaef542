"""Stand-ins for models that came after the ComfyUI under test: what their forwards do with their blocks, in small.

`STAND_INS` maps the path of core's class to one that takes the same configuration; where core has the class, that is
what the tests build.
"""

import torch
from torch import nn


class _Block(nn.Module):
    """Calls a closure for its attention and adds in place, each part of the sequence with its own modulation."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.qkv, self.out, self.mlp = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x, mod, pe, attn_fn, prefix_len, transformer_options=None):
        y = self.out(attn_fn(*self.qkv(self.norm(x) + pe).chunk(3, dim=-1)))
        x[:, prefix_len:].addcmul_(y[:, prefix_len:], 1 + mod)
        if prefix_len:
            x[:, :prefix_len].add_(y[:, :prefix_len])
        return x.add_(self.mlp(self.norm(x)))


class QwenImage21Transformer2DModel(nn.Module):
    """Text before picture; the text never attends to the picture, so its keys and values can be kept for the run."""

    def __init__(self, in_channels, out_channels, num_layers, attention_head_dim, num_attention_heads, context_in_dim,
                 axes_dims_rope, dtype=None, device=None, operations=None):  # fmt: skip
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        self.dtype, self.out_channels = dtype, out_channels
        self.img_in, self.txt_in = nn.Linear(in_channels, dim), nn.Linear(context_in_dim, dim)
        self.time = nn.Linear(1, dim)
        self.transformer_blocks = nn.ModuleList([_Block(dim) for _ in range(num_layers)])
        self.proj_out = nn.Linear(dim, out_channels)
        self.prefix_cache, self.prefix_cache_enabled = None, False

    def reset_prefix_cache(self, enabled: bool) -> None:
        self.prefix_cache, self.prefix_cache_enabled = None, enabled

    def forward(self, x, timesteps, context, ref_latents=None, image_slots=None, transformer_options=None, **kwargs):
        prefix, picture = self.txt_in(context), self.img_in(x.flatten(2).transpose(1, 2))
        length = prefix.shape[1]
        pe = torch.linspace(-1, 1, length + picture.shape[1])[None, :, None]
        mod = self.time(timesteps[:, None])[:, None]
        cached = self.prefix_cache_enabled and len(self.prefix_cache or ()) == len(self.transformer_blocks)
        if self.prefix_cache_enabled:
            keep = self.prefix_cache = self.prefix_cache if cached else {}
            pe_prefix, pe, states = pe[:, :length], pe[:, length:], picture
        else:
            states = torch.cat([prefix, picture], dim=1)
        for index, block in enumerate(self.transformer_blocks):
            if not self.prefix_cache_enabled:
                states = block(states, mod, pe, _causal(length), length, transformer_options)
                continue
            if not cached:
                prefix = block(prefix, mod, pe_prefix, _filling(keep, index), length, transformer_options)
            states = block(states, mod, pe, _with_prefix(*keep[index]), 0, transformer_options)
        out = self.proj_out(states if self.prefix_cache_enabled else states[:, length:])
        return out.transpose(1, 2).reshape(len(x), self.out_channels, *x.shape[2:])


def _attention(q, k, v):
    return nn.functional.scaled_dot_product_attention(q, k, v)


def _causal(length):
    def attn(q, k, v):
        prefix = _attention(q[:, :length], k[:, :length], v[:, :length])
        return torch.cat([prefix, _attention(q[:, length:], k, v)], dim=1)

    return attn


def _filling(cache, index):
    def attn(q, k, v):
        cache[index] = k, v
        return _attention(q, k, v)

    return attn


def _with_prefix(prefix_k, prefix_v):
    def attn(q, k, v):
        return _attention(q, torch.cat([prefix_k, k], dim=1), torch.cat([prefix_v, v], dim=1))

    return attn


QwenImage21Transformer2DModel.__module__ = "comfy.ldm.qwen_image21.model"
STAND_INS = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in (QwenImage21Transformer2DModel,)}
