"""A tiny model with random weights for each architecture, built from ComfyUI's own class and called as ComfyUI does.

`BUILDERS` maps "Architecture" or "Architecture: variant" to a function that builds a `TinyModel`. Float32 on the CPU.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

from .newer_models import STAND_INS


class NotInThisComfyUI(Exception):
    """The ComfyUI under test does not ship this model class."""


def load_class(path: str) -> type:
    """Return the class that a dotted path names, or raise `NotInThisComfyUI`."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise NotInThisComfyUI(f"this ComfyUI has no {path}") from error


class Draw:
    """Seeded inputs: `draw(2, 3)` is a normal (2, 3) tensor."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)


Inputs = Callable[[Draw], dict[str, Any]]


class TinyModel:
    """A diffusion model with seeded random weights and inputs that fit it.

    `inputs` returns the arguments of the forward: `x`, `t` and others by name.
    """

    def __init__(self, model_class: str, config: dict[str, Any], inputs: Inputs, before=None, after=None, newer=()):
        """`before` and `after` are called with the model, before and after its parameters get their values.

        `newer` names options of `config` that an older ComfyUI does not know.
        """
        import comfy.ops

        try:
            cls = load_class(model_class)
        except NotInThisComfyUI:
            if model_class not in STAND_INS:
                raise
            cls = STAND_INS[model_class]
        self.inputs = inputs
        factory = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}
        with torch.no_grad():
            try:
                self.diffusion_model = cls(**config, **factory)
            except TypeError as error:
                if not any(f"unexpected keyword argument '{option}'" in str(error) for option in newer):
                    raise
                old = {key: value for key, value in config.items() if key not in newer}
                self.diffusion_model = cls(**old, **factory)
            if before is not None:
                before(self.diffusion_model)
            _randomize(self.diffusion_model)
            if after is not None:
                after(self.diffusion_model)
        self.diffusion_model.requires_grad_(False).eval()

    def arguments(self, *seeds: int) -> dict[str, Any]:
        """Return the arguments of the forward, by name, for a batch of one sample for each seed."""
        return {"context": None, "control": None, **_batch([self.inputs(Draw(seed)) for seed in seeds])}

    def call(self, *seeds: int, latent_seed: int | None = None, transformer_options: dict | None = None) -> Any:
        """Run one forward, the way `BaseModel._apply_model` calls it, with a batch of one sample for each seed.

        With `latent_seed` the latent comes from that seed, and the text and everything else from `seeds`.
        """
        arguments = self.arguments(*seeds)
        if latent_seed is not None:
            arguments["x"] = self.inputs(Draw(latent_seed))["x"]
        x, t = arguments.pop("x"), arguments.pop("t")
        options = {"cond_or_uncond": [0], **(transformer_options or {})}
        with torch.no_grad():
            return self.diffusion_model(x, t, transformer_options=options, **arguments)


def _randomize(model: torch.nn.Module) -> None:
    """Give every parameter a seeded value, zero-initialised ones too: matrices keep the variance of their input.

    Core leaves some buffers uninitialised as well; those that a forward reads are set by `after`.
    """
    draw = Draw(0)
    for name, parameter in model.named_parameters():
        value = draw(*parameter.shape)
        if parameter.ndim >= 2:
            value *= parameter[0].numel() ** -0.5
        else:
            value = 0.1 * value + (1.0 if name.endswith("weight") or name.endswith("scale") else 0.0)
        parameter.copy_(value)


def _batch(samples: list[Any]) -> Any:
    """Stack tensors along their first dimension, also inside dicts, tuples and lists; keep what is no tensor."""
    first = samples[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(samples)
    if isinstance(first, dict):
        return {key: _batch([sample[key] for sample in samples]) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(_batch(list(items)) for items in zip(*samples, strict=True))
    return first


def _t(value: float = 0.7, batch: int = 1) -> torch.Tensor:
    return torch.full((batch,), value)


# fmt: off
HEADS = {"attention_head_dim": 16, "num_attention_heads": 2, "num_layers": 3}
FLUX = {
    "in_channels": 4, "out_channels": 4, "vec_in_dim": 12, "context_in_dim": 16, "hidden_size": 32, "mlp_ratio": 2.0,
    "num_heads": 2, "depth": 3, "depth_single_blocks": 3, "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}
FLUX_2 = {
    **FLUX, "axes_dim": [4, 4, 4, 4], "vec_in_dim": None, "patch_size": 1, "qkv_bias": False, "txt_ids_dims": [3],
    "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index",
    "ref_index_scale": 10.0,
}
CHROMA = {
    **{key: value for key, value in FLUX.items() if key != "guidance_embed"}, "in_channels": 16,
    "out_channels": 16, "in_dim": 64, "out_dim": 32, "hidden_dim": 16, "n_layers": 1,
}
RADIANCE = {
    **CHROMA, "in_channels": 3, "out_channels": 3, "patch_size": 4, "nerf_hidden_size": 8, "nerf_mlp_ratio": 2,
    "nerf_depth": 1, "nerf_max_freqs": 2, "nerf_tile_size": 0, "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32, "use_x0": False, "use_sequential_txt_ids": False,
}
WAN = {
    "in_dim": 4, "out_dim": 4, "dim": 24, "ffn_dim": 48, "freq_dim": 16, "text_dim": 16, "num_heads": 2,
    "num_layers": 4, "text_len": 8,
}
HUNYUAN_VIDEO = {
    **{key: value for key, value in FLUX.items() if key != "txt_ids_dims"}, "patch_size": [1, 2, 2], "byt5": False,
    "meanflow": False, "meanflow_sum": False, "use_cond_type_embedding": False, "vision_in_dim": None,
}
HUNYUAN_VIDEO_15 = {
    **HUNYUAN_VIDEO, "patch_size": [1, 1, 1], "vec_in_dim": None, "guidance_embed": False, "depth_single_blocks": 0,
    "byt5": True, "use_cond_type_embedding": True, "vision_in_dim": 16,
}
LTXV = {"in_channels": 4, "cross_attention_dim": 32, "caption_channels": 16, **HEADS}
LTX_AV = {
    **LTXV, "audio_in_channels": 128, "audio_cross_attention_dim": 16, "audio_attention_head_dim": 8,
    "audio_num_attention_heads": 2, "connector_attention_head_dim": 8, "connector_num_attention_heads": 2,
    "connector_num_layers": 1,
}
LUMINA = {
    "in_channels": 4, "dim": 24, "n_layers": 3, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "multiple_of": 8,
    "ffn_dim_multiplier": 1.0, "qk_norm": True, "cap_feat_dim": 16, "axes_dims": [4, 4, 4], "axes_lens": [32, 32, 32],
}
Z_IMAGE = {
    **LUMINA, "dim": 256, "n_heads": 8, "n_kv_heads": 8, "axes_dims": [8, 12, 12], "z_image_modulation": True,
    "pad_tokens_multiple": 32, "time_scale": 1000.0,
}
COSMOS = {
    "max_img_h": 16, "max_img_w": 16, "max_frames": 8, "in_channels": 4, "out_channels": 4, "patch_spatial": 2,
    "patch_temporal": 1, "model_channels": 48, "num_blocks": 3, "num_heads": 2, "crossattn_emb_channels": 16,
    "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "use_adaln_lora": True, "adaln_lora_dim": 8,
}
OMNIGEN2 = {
    "in_channels": 4, "hidden_size": 48, "num_layers": 3, "num_refiner_layers": 1, "num_attention_heads": 2,
    "num_kv_heads": 1, "multiple_of": 8, "axes_dim_rope": (8, 8, 8), "axes_lens": (32, 32, 32),
}
PIXELDIT = {
    "num_groups": 2, "hidden_size": 32, "pixel_hidden_size": 8, "pixel_attn_hidden_size": 16, "pixel_num_groups": 2,
    "patch_depth": 3, "pixel_depth": 2, "patch_size": 4, "txt_embed_dim": 16, "txt_max_length": 8,
}
QWEN_21 = {
    **HEADS, "in_channels": 16, "out_channels": 16, "context_in_dim": 16, "axes_dims_rope": (4, 6, 6),
}
O1_TEXT = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "rope_dims": [4, 2, 2],
}
O1_VISION = {"hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "depth": 1, "num_position_embeddings": 16}


def _inputs(*shape: int, t: float = 0.7, context: int = 16, **others: Any) -> Inputs:
    """Inputs with a latent of this shape and 5 text tokens; a tuple in `others` is the shape of a normal tensor."""

    def draw_all(draw: Draw) -> dict[str, Any]:
        drawn = {key: draw(*value) if isinstance(value, tuple) else value for key, value in others.items()}
        return {"x": draw(*shape), "t": _t(t), "context": draw(1, 5, context), **drawn}

    return draw_all


FLUX_INPUTS = _inputs(1, 4, 8, 8, y=(1, 12), guidance=_t(3.5))
VIDEO = _inputs(1, 4, 2, 8, 8)
WAN_I2V_INPUTS = _inputs(1, 4, 2, 4, 4, clip_fea=(1, 257, 1280))


def _o1_inputs(draw: Draw) -> dict[str, Any]:
    from comfy.ldm.hidream_o1.model import TMS_TOKEN_ID

    positions = torch.arange(10).expand(1, 3, 10)
    # Another prompt for each seed: the model keeps keys and values of the last two.
    ids = torch.cat([torch.randint(1, 50, (1, 5), generator=draw.generator), torch.tensor([[TMS_TOKEN_ID]])], dim=1)
    return {"x": draw(1, 3, 64, 64), "t": _t(700.0), "input_ids": ids, "position_ids": positions, "ar_len": 5}


def _small_lyric_encoder(model: torch.nn.Module) -> None:
    """The lyric encoder of ACE-Step takes no size from the configuration."""
    import comfy.ops
    from comfy.ldm.ace.lyric_encoder import ConformerEncoder

    model.lyric_encoder = ConformerEncoder(
        input_size=16, output_size=16, attention_heads=2, linear_units=16, num_blocks=1, static_chunk_size=0,
        dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init,
    )


def _without(part: str) -> Callable[[torch.nn.Module], None]:
    """Leave out a part that takes no size from the configuration and that these inputs do not need."""
    return lambda model: setattr(model, part, None)


def _model(model_class: str, config: dict, inputs: Inputs, **others: Any) -> Callable[[], TinyModel]:
    return functools.partial(TinyModel, "comfy.ldm." + model_class, config, inputs, **others)


BUILDERS: dict[str, Callable[[], TinyModel]] = {
    "Flux": _model("flux.model.Flux", FLUX, FLUX_INPUTS),
    "Flux: ControlNet": _model(
        "flux.model.Flux", FLUX,
        lambda draw: {
            **FLUX_INPUTS(draw), "control": {key: [draw(1, 16, 32) for _ in range(3)] for key in ("input", "output")},
        },
    ),
    "Flux: 2": _model("flux.model.Flux", FLUX_2, FLUX_INPUTS),
    "Chroma": _model("chroma.model.Chroma", CHROMA, FLUX_INPUTS),
    "Chroma: Radiance": _model(
        "chroma_radiance.model.ChromaRadiance", RADIANCE, _inputs(1, 3, 16, 16, guidance=_t(0.0)),
        newer=("use_sequential_txt_ids",),
    ),
    "Wan": _model("wan.model.WanModel", WAN, _inputs(1, 4, 2, 4, 4)),
    "Wan: image to video": _model("wan.model.WanModel", {**WAN, "model_type": "i2v"}, WAN_I2V_INPUTS),
    "Wan: VACE": _model(
        "wan.model.VaceWanModel", {**WAN, "vace_layers": 2, "vace_in_dim": 6},
        _inputs(1, 4, 2, 4, 4, vace_context=(1, 1, 6, 2, 4, 4), vace_strength=[1.0]),
    ),
    "Wan: Camera": _model(
        "wan.model.CameraWanModel", WAN, _inputs(1, 4, 2, 4, 4, camera_conditions=(1, 24, 2, 32, 32)),
    ),
    "Wan: speech to video": _model(
        "wan.model.WanModel_S2V", {**WAN, "audio_dim": 8, "cond_dim": 4, "audio_inject_layers": [0, 2]},
        _inputs(1, 4, 2, 4, 4, audio_embed=(1, 25, 8, 8)),
        after=lambda model: model.casual_audio_encoder.weights.fill_(1.0),
    ),
    "Wan: HuMo": _model(
        "wan.model.HumoWanModel", WAN, _inputs(1, 4, 2, 4, 4, audio_embed=(1, 2, 8, 5, 1280)),
    ),
    "Wan: Animate": _model(
        "wan.model_animate.AnimateWanModel", WAN, _inputs(1, 4, 2, 4, 4, pose_latents=(1, 16, 1, 4, 4)),
        before=_without("motion_encoder"),
    ),
    "Wan: SCAIL": _model(
        "wan.model.SCAILWanModel", WAN,
        _inputs(1, 4, 2, 4, 4, pose_latents=(1, 4, 2, 4, 4), reference_latent=(1, 4, 1, 4, 4)),
    ),
    "Wan: SCAIL-2": _model(
        "wan.model.SCAIL2WanModel", {**WAN, "mask_in_dim": 3},
        _inputs(1, 4, 2, 4, 4, pose_latents=(1, 4, 2, 4, 4), sam_latents=(1, 3, 2, 4, 4)),
    ),
    "Wan: WanDancer": _model(
        "wan.model_wandancer.WanDancerModel",
        {**WAN, "audio_inject_layers": [0, 2], "music_dim": 16, "music_heads": 2, "music_latent_dim": 16},
        _inputs(1, 4, 2, 8, 8, audio_embed=(1, 6, 35)),
    ),
    "HunyuanVideo": _model(
        "hunyuan_video.model.HunyuanVideo", HUNYUAN_VIDEO,
        _inputs(1, 4, 2, 8, 8, y=(1, 12), guidance=_t(6.0)),
    ),
    "HunyuanVideo: 1.5": _model(
        "hunyuan_video.model.HunyuanVideo", HUNYUAN_VIDEO_15,
        _inputs(1, 4, 2, 4, 4, clip_fea=(1, 3, 16), txt_byt5=(1, 2, 1472)),
    ),
    "LTX-Video": _model(
        "lightricks.model.LTXVModel", LTXV, _inputs(1, 4, 2, 4, 4, attention_mask=None),
    ),
    "LTX-2": _model(
        "lightricks.av_model.LTXAVModel", LTX_AV,
        lambda draw: {
            "x": [draw(1, 4, 2, 4, 4), draw(1, 8, 3, 16)], "t": (_t(), _t()), "context": draw(1, 5, 32),
            "attention_mask": None,
        },
    ),
    "Qwen-Image": _model(
        "qwen_image.model.QwenImageTransformer2DModel",
        {**HEADS, "in_channels": 16, "out_channels": 4, "joint_attention_dim": 16, "axes_dims_rope": (4, 6, 6)},
        _inputs(1, 4, 1, 8, 8),
    ),
    "Qwen-Image 2.1": _model("qwen_image21.model.QwenImage21Transformer2DModel", QWEN_21, _inputs(1, 16, 4, 4)),
    "Stable Diffusion 3": _model(
        "modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",
        {
            "input_size": None, "in_channels": 4, "depth": 1, "num_blocks": 3, "adm_in_channels": 12,
            "num_patches": 64, "pos_embed_max_size": 8, "qk_norm": "rms", "x_block_self_attn_layers": [0],
            "context_embedder_config": {
                "target": "torch.nn.Linear", "params": {"in_features": 16, "out_features": 64},
            },
        },
        _inputs(1, 4, 8, 8, y=(1, 12)), after=lambda model: model.pos_embed.fill_(0.5),
    ),
    "Lumina 2": _model("lumina.model.NextDiT", LUMINA, _inputs(1, 4, 8, 8, num_tokens=5)),
    "Lumina 2: Z-Image": _model("lumina.model.NextDiT", Z_IMAGE, _inputs(1, 4, 8, 8, num_tokens=5)),
    "Lumina 2: pixel space": _model(
        "lumina.model.NextDiTPixelSpace",
        {
            **Z_IMAGE, "patch_size": 2, "in_channels": 3, "decoder_hidden_size": 8, "decoder_num_res_blocks": 1,
            "decoder_max_freqs": 2,
        },
        _inputs(1, 3, 8, 8, num_tokens=5),
    ),
    "HiDream-I1": _model(
        "hidream.model.HiDreamImageTransformer2DModel",
        {
            "patch_size": 2, "in_channels": 4, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16,
            "num_attention_heads": 2, "caption_channels": [16, 16], "text_emb_dim": 12, "num_routed_experts": 2,
            "num_activated_experts": 1, "axes_dims_rope": (4, 6, 6), "llama_layers": [0, 1, 2, 3],
        },
        _inputs(1, 4, 8, 8, y=(1, 12), encoder_hidden_states_llama3=(1, 4, 5, 16)),
    ),
    "HiDream-O1": _model(
        "hidream_o1.model.HiDreamO1Transformer",
        {"text_config_overrides": O1_TEXT, "vision_config_overrides": O1_VISION}, _o1_inputs,
    ),
    "Cosmos": _model(
        "cosmos.model.GeneralDIT",
        {
            **COSMOS, "block_x_format": "THWBD", "affline_emb_norm": True, "extra_per_block_abs_pos_emb": True,
            "extra_per_block_abs_pos_emb_type": "learnable",
        },
        VIDEO,
    ),
    "Cosmos-Predict2": _model("cosmos.predict2.MiniTrainDIT", COSMOS, VIDEO),
    "Cosmos-Predict2: Anima": _model("anima.model.Anima", COSMOS, VIDEO, before=_without("llm_adapter")),
    # Core insists on a hidden size of 12288 for the picture's feed-forward.
    "Mochi": _model(
        "genmo.joint_model.asymm_models_joint.AsymmDiTJoint",
        {
            "patch_size": 2, "in_channels": 4, "hidden_size_x": 32, "hidden_size_y": 16, "depth": 3, "num_heads": 2,
            "mlp_ratio_x": 12288 / 32, "mlp_ratio_y": 2.0, "use_t5": True, "t5_feat_dim": 16, "learn_sigma": False,
            "timestep_scale": 1000.0, "qk_norm": True, "qkv_bias": False, "out_bias": True,
        },
        _inputs(1, 4, 2, 8, 8, attention_mask=torch.ones(1, 5), num_tokens=5),
    ),
    "AuraFlow": _model(
        "aura.mmdit.MMDiT",
        {
            "dim": 32, "n_layers": 4, "n_double_layers": 2, "n_heads": 2, "global_conddim": 32, "cond_seq_dim": 16,
            "max_seq": 256,
        },
        _inputs(1, 4, 8, 8),
    ),
    "PixArt": _model(
        "pixart.pixartms.PixArtMS",
        {"hidden_size": 48, "depth": 3, "num_heads": 2, "caption_channels": 16, "model_max_length": 5},
        _inputs(1, 4, 48, 48),
    ),
    "CogVideoX": _model(
        "cogvideo.model.CogVideoXTransformer3DModel",
        {
            **HEADS, "in_channels": 4, "out_channels": 4, "time_embed_dim": 16, "text_embed_dim": 16, "sample_width": 8,
            "sample_height": 8, "sample_frames": 5, "use_rotary_positional_embeddings": True,
        },
        VIDEO,
    ),
    "Hunyuan-DiT": _model(
        "hydit.models.HunYuanDiT",
        {
            "hidden_size": 32, "depth": 6, "num_heads": 2, "text_states_dim": 16, "text_states_dim_t5": 16,
            "text_len": 5, "text_len_t5": 4,
        },
        _inputs(
            1, 4, 8, 8, text_embedding_mask=torch.ones(1, 5), encoder_hidden_states_t5=(1, 4, 16),
            text_embedding_mask_t5=torch.tensor([[1, 1, 1, 0]]), image_meta_size=torch.full((1, 6), 64.0),
        ),
    ),
    "Hunyuan3D 2": _model(
        "hunyuan3d.model.Hunyuan3Dv2",
        {
            "in_channels": 8, "context_in_dim": 16, "hidden_size": 32, "num_heads": 2, "depth": 2,
            "depth_single_blocks": 2,
        },
        _inputs(1, 8, 6),
    ),
    "Hunyuan3D 2.1": _model(
        "hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain",
        {
            "in_channels": 8, "hidden_size": 32, "context_dim": 16, "depth": 5, "num_heads": 2, "num_moe_layers": 2,
            "guidance_cond_proj_dim": None, "num_experts": 2, "moe_top_k": 1,
        },
        lambda draw: {"x": draw(2, 8, 6), "t": _t(batch=2), "context": draw(2, 5, 16)},
    ),
    "MiniMax H3": _model(
        "minimax.model.MiniMaxH3Model",
        {
            "hidden_size": 32, "num_layers": 3, "token_refiner_num_layers": 1, "num_attention_heads": 2,
            "attention_head_dim": 16, "ffn_hidden_size": 32, "latents_dim": 4, "audio_latents_dim": 8, "text_dim": 16,
            "timestep_input_dim": 16, "time_embed_hidden_size": 16, "time_embed_dim": 16, "rope_inv_freq_len": 2,
        },
        lambda draw: {
            "x": [draw(1, 4, 2, 4, 4), draw(1, 8, 2, 3)], "t": _t(700.0), "context": draw(1, 5, 16),
        },
        after=lambda model: model.rope.inv_freq.copy_(torch.tensor([1.0, 0.1])),
    ),
    "OmniGen2": _model(
        "omnigen.omnigen2.OmniGen2Transformer2DModel", {**OMNIGEN2, "text_feat_dim": 16},
        _inputs(1, 4, 8, 8, num_tokens=5),
    ),
    "Boogu": _model(
        "boogu.model.BooguTransformer2DModel",
        {**OMNIGEN2, "num_double_stream_layers": 2, "instruction_feat_dim": 16}, _inputs(1, 4, 8, 8, num_tokens=5),
    ),
    "ERNIE-Image": _model(
        "ernie.model.ErnieImageModel",
        {
            "hidden_size": 32, "num_attention_heads": 2, "num_layers": 3, "ffn_hidden_size": 48, "in_channels": 4,
            "out_channels": 4, "text_in_dim": 16, "rope_axes_dim": (4, 6, 6),
        },
        _inputs(1, 4, 4, 4),
    ),
    "Ideogram 4": _model(
        "ideogram4.model.Ideogram4Transformer2DModel",
        {
            **HEADS, "in_channels": 8, "intermediate_size": 32, "adaln_dim": 16, "llm_features_dim": 16,
            "mrope_section": (4, 2, 2),
        },
        _inputs(1, 8, 4, 4),
    ),
    "JoyImage": _model(
        "joyimage.model.JoyImageTransformer3DModel",
        {
            "in_channels": 4, "hidden_size": 32, "num_attention_heads": 2, "text_dim": 16, "num_layers": 3,
            "rope_dim_list": [4, 6, 6],
        },
        _inputs(1, 4, 1, 8, 8),
    ),
    "Kandinsky 5": _model(
        "kandinsky5.model.Kandinsky5",
        {
            "in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": 16, "in_text_dim2": 12, "time_dim": 16,
            "model_dim": 32, "ff_dim": 48, "visual_embed_dim": 16, "num_text_blocks": 1, "num_visual_blocks": 3,
            "axes_dims": (4, 6, 6),
        },
        _inputs(1, 4, 2, 8, 8, y=(1, 12)),
    ),
    "Krea 2": _model(
        "krea2.model.SingleStreamDiT",
        {
            "features": 32, "tdim": 16, "txtdim": 16, "heads": 2, "kvheads": 1, "multiplier": 1, "layers": 3,
            "channels": 4, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2,
        },
        _inputs(1, 4, 8, 8, context=32),
    ),
    "Lens": _model(
        "lens.model.LensTransformer2DModel",
        {
            **HEADS, "in_channels": 8, "out_channels": 2, "enc_hidden_dim": 16, "axes_dims_rope": (4, 6, 6),
            "selected_layer_index": (0, 1),
        },
        _inputs(1, 8, 4, 4, context=32),
    ),
    "Mage-Flow": _model(
        "mage_flow.model.MageFlowTransformer2DModel",
        {**HEADS, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 16, "axes_dims_rope": (4, 6, 6)},
        _inputs(1, 4, 4, 4),
    ),
    "PixelDiT": _model("pixeldit.model.PixDiT_T2I", PIXELDIT, _inputs(1, 3, 16, 16, t=700.0)),
    "PixelDiT: PiD": _model(
        "pixeldit.pid.PidNet", {**PIXELDIT, "lq_latent_channels": 4, "lq_hidden_dim": 8, "lq_num_res_blocks": 1},
        _inputs(1, 3, 16, 16, t=700.0, lq_latent=(1, 4, 4, 4), degrade_sigma=_t(0.1)),
    ),
    "SeedVR2": _model(
        "seedvr.model.NaDiT",
        {
            "norm_eps": 1e-5, "num_layers": 4, "mlp_type": "swiglu", "vid_dim": 32, "txt_in_dim": 16, "heads": 2,
            "head_dim": 16, "mm_layers": 2, "rope_dim": 12, "vid_out_norm": "fusedrms",
        },
        _inputs(1, 16, 1, 8, 8, condition=(1, 17, 1, 8, 8)),
    ),
    "TripoSplat": _model(
        "triposplat.model.LatentSeqMMFlowModel",
        {
            "q_token_length": 8, "in_channels": 4, "model_channels": 32, "cond_channels": 16, "out_channels": 4,
            "num_blocks": 3, "num_refiner_blocks": 1, "num_head_channels": 16, "cond2_channels": None,
        },
        lambda draw: {"x": [draw(1, 8, 4), draw(1, 1, 5)], "t": _t(), "context": draw(1, 5, 16)},
    ),
    "ACE-Step": _model(
        "ace.model.ACEStepTransformer2DModel",
        {
            **HEADS, "speaker_embedding_dim": 8, "text_embedding_dim": 16, "lyric_encoder_vocab_size": 50,
            "lyric_hidden_size": 16, "ssl_latent_dims": [8, 8],
        },
        _inputs(
            1, 8, 16, 12, speaker_embeds=(1, 8), lyric_mask=torch.ones(1, 6), lyric_token_idx=torch.arange(1, 7)[None],
        ),
        before=_small_lyric_encoder,
    ),
    "ACE-Step 1.5": _model(
        "ace.ace_step15.AceStepConditionGenerationModel",
        {
            "in_channels": 24, "hidden_size": 32, "text_hidden_dim": 16, "timbre_hidden_dim": 8,
            "audio_acoustic_hidden_dim": 8, "num_dit_layers": 3, "num_lyric_layers": 1, "num_timbre_layers": 1,
            "num_tokenizer_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "intermediate_size": 32,
            "fsq_dim": 32, "encoder_hidden_size": 32, "encoder_intermediate_size": 32, "encoder_num_heads": 2,
        },
        _inputs(1, 8, 10, lyric_embed=(1, 4, 16), refer_audio=(1, 8, 10)),
        newer=("encoder_hidden_size", "encoder_intermediate_size", "encoder_num_heads"),
    ),
    "Stable Audio": _model(
        "audio.dit.AudioDiffusionTransformer",
        {
            "io_channels": 8, "embed_dim": 64, "cond_token_dim": 64, "global_cond_dim": 12, "depth": 3, "num_heads": 1,
        },
        _inputs(1, 8, 12, context=64, global_embed=(1, 12)),
        after=lambda model: model.transformer.rotary_pos_emb.inv_freq.copy_(0.8 ** torch.arange(16)),
    ),
}

# UNets have no row: `unet_blocks.py` sees their first block through core's patches.
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": (1, 2), "num_heads": 2, "use_spatial_transformer": True, "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1, "context_dim": 16, "legacy": False,
}
UNET_CLASS = "modules.diffusionmodules.openaimodel.UNetModel"
UNET_BUILDERS: dict[str, Callable[[], TinyModel]] = {
    "Stable Diffusion 1.5": _model(UNET_CLASS, UNET, _inputs(1, 4, 8, 8, t=500.0)),
    "SDXL": _model(
        UNET_CLASS, {**UNET, "num_classes": "sequential", "adm_in_channels": 12},
        _inputs(1, 4, 8, 8, t=500.0, y=(1, 12)),
    ),
}
# fmt: on
