"""Where the blocks of each diffusion transformer are: data, not code. Classes are strings, nothing is imported.

Source: the models under comfy/ldm of ComfyUI 0.30.0, and what 0.31 to 0.46 added. A model is found by its own class: a
subclass may call its base's blocks in another way (Wan-Animate-2 does), so those that do not are listed in their base's
row. `tests/numerics/test_architectures.py` runs each row on a tiny model.
"""

from dataclasses import dataclass


def class_paths(model: object) -> list[str]:
    """Return the dotted paths of the model's class and its bases, most derived first: what the tables name."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(model).__mro__]


@dataclass(frozen=True)
class Stack:
    """A list of blocks that the model calls one after the other.

    `attribute` is its dotted path below the diffusion model. `streams` names the parameters of the block's forward that
    its output carries on, in the order of the output; a single name means that the output as a whole is the stream, an
    empty name marks an output that is no stream. `probe` is the stream that First Block Cache measures ("": the first).
    `batch_dim` is the dimension of the streams in which the samples of a batch lie. With `packed` the streams have no
    dimension of their own for the samples: they are (tokens, channels), one sample's tokens behind the other's.
    `shared` names other inputs of the blocks whose first dimension is always 1: all samples share one entry.
    """

    attribute: str
    streams: tuple[str, ...]
    probe: str = ""
    batch_dim: int = 0
    packed: bool = False
    shared: tuple[str, ...] = ()

    @property
    def carried(self) -> tuple[str, ...]:
        """The names of the streams, without the outputs that are none."""
        return tuple(name for name in self.streams if name)

    @property
    def measured(self) -> str:
        """The name of the stream that First Block Cache measures."""
        return self.probe or self.carried[0]


@dataclass(frozen=True)
class Architecture:
    """One diffusion transformer of ComfyUI core.

    `also` are the classes derived from `model_class` that call their blocks as it does. `covers` names variants that a
    person would look for. `tail_residual` is False where replacing the blocks behind the first one by a stored residual
    would be wrong, as they do more than change their streams; measuring the first block and stopping there works
    for all.
    """

    name: str
    model_class: str
    stacks: tuple[Stack, ...]
    also: tuple[str, ...] = ()
    tail_residual: bool = True
    covers: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """The paths of the classes that this row is for."""
        return self.model_class, *self.also


_WAN = "comfy.ldm.wan.model."
_DOUBLE = Stack("double_blocks", ("img", "txt"))
_SINGLE = Stack("single_blocks", ("x",))
# The diffusers naming: picture and text, and the text comes out first.
_TEXT_FIRST = ("encoder_hidden_states", "hidden_states")
_PICTURE_FIRST = ("hidden_states", "encoder_hidden_states")

# fmt: off
ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("Flux", "comfy.ldm.flux.model.Flux", (_DOUBLE, _SINGLE), covers="1, 2, Kontext, LongCat, Ovis"),
    Architecture(
        "Chroma", "comfy.ldm.chroma.model.Chroma", (_DOUBLE, _SINGLE),
        also=("comfy.ldm.chroma_radiance.model.ChromaRadiance",), covers="Radiance",
    ),
    Architecture(
        "Wan", f"{_WAN}WanModel", (Stack("blocks", ("x",), shared=("freqs",)),),
        also=(
            f"{_WAN}VaceWanModel", f"{_WAN}CameraWanModel", f"{_WAN}WanModel_S2V", f"{_WAN}HumoWanModel",
            f"{_WAN}SCAILWanModel", f"{_WAN}SCAIL2WanModel", "comfy.ldm.wan.model_animate.AnimateWanModel",
            "comfy.ldm.wan.model_wandancer.WanDancerModel",
        ),
        covers="2.1, 2.2, VACE, Camera, S2V, HuMo, Animate, SCAIL, WanDancer",
    ),
    Architecture("HunyuanVideo", "comfy.ldm.hunyuan_video.model.HunyuanVideo", (_DOUBLE, _SINGLE), covers="1.5"),
    Architecture("LTX-Video", "comfy.ldm.lightricks.model.LTXVModel", (Stack("transformer_blocks", ("x",)),)),
    # The one stream is a pair: (video, audio).
    Architecture("LTX-2", "comfy.ldm.lightricks.av_model.LTXAVModel", (Stack("transformer_blocks", ("x",)),)),
    Architecture(
        "Qwen-Image", "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",
        (Stack("transformer_blocks", _TEXT_FIRST, probe="hidden_states"),),
    ),
    # While it fills the cache of its text and reference pictures it calls each block twice, later for the picture only.
    Architecture(
        "Qwen-Image 2.1", "comfy.ldm.qwen_image21.model.QwenImage21Transformer2DModel",
        (Stack("transformer_blocks", ("x",), shared=("pe",)),), tail_residual=False,
    ),
    Architecture(
        "Stable Diffusion 3", "comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",
        (Stack("joint_blocks", ("context", "x"), probe="x"),), covers="3.5",
    ),
    Architecture(
        "Lumina 2", "comfy.ldm.lumina.model.NextDiT", (Stack("layers", ("x",), shared=("freqs_cis",)),),
        also=("comfy.ldm.lumina.model.NextDiTPixelSpace",), covers="Z-Image, pixel space",
    ),
    Architecture(
        "HiDream-I1", "comfy.ldm.hidream.model.HiDreamImageTransformer2DModel",
        (Stack("double_stream_blocks", ("image_tokens", "text_tokens")),
         Stack("single_stream_blocks", ("image_tokens",))),
    ),
    # The model collects each block's keys and values (the second output) for the steps to come.
    Architecture(
        "HiDream-O1", "comfy.ldm.hidream_o1.model.HiDreamO1Transformer",
        (Stack("language_model.layers", ("x", ""), shared=("freqs_cis",)),), tail_residual=False,
    ),
    # Time, height, width, batch, channels.
    Architecture("Cosmos", "comfy.ldm.cosmos.model.GeneralDIT", (Stack("blocks", ("x",), batch_dim=3),)),
    Architecture(
        "Cosmos-Predict2", "comfy.ldm.cosmos.predict2.MiniTrainDIT",
        (Stack("blocks", ("x_B_T_H_W_D",), shared=("rope_emb_L_1_1_D",)),),
        also=("comfy.ldm.anima.model.Anima",), covers="Anima",
    ),
    Architecture(
        "Mochi", "comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint", (Stack("blocks", ("x", "y")),),
    ),
    Architecture(
        "AuraFlow", "comfy.ldm.aura.mmdit.MMDiT",
        (Stack("double_layers", ("c", "x"), probe="x"), Stack("single_layers", ("cx",))),
    ),
    Architecture(
        "PixArt", "comfy.ldm.pixart.pixartms.PixArtMS", (Stack("blocks", ("x",), shared=("y",)),),
        covers="Alpha, Sigma",
    ),
    Architecture(
        "CogVideoX", "comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel", (Stack("blocks", _PICTURE_FIRST),),
    ),
    Architecture("Hunyuan-DiT", "comfy.ldm.hydit.models.HunYuanDiT", (Stack("blocks", ("x",)),)),
    Architecture("Hunyuan3D 2", "comfy.ldm.hunyuan3d.model.Hunyuan3Dv2", (_DOUBLE, _SINGLE)),
    Architecture(
        "Hunyuan3D 2.1", "comfy.ldm.hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain", (Stack("blocks", ("hidden_states",)),),
    ),
    Architecture("MiniMax H3", "comfy.ldm.minimax.model.MiniMaxH3Model", (Stack("blocks", ("x",), packed=True),)),
    Architecture(
        "OmniGen2", "comfy.ldm.omnigen.omnigen2.OmniGen2Transformer2DModel", (Stack("layers", ("hidden_states",)),),
    ),
    Architecture(
        "Boogu", "comfy.ldm.boogu.model.BooguTransformer2DModel",
        (Stack("double_stream_layers", ("img_hidden_states", "instruct_hidden_states")),
         Stack("single_stream_layers", ("hidden_states",))),
    ),
    Architecture("ERNIE-Image", "comfy.ldm.ernie.model.ErnieImageModel", (Stack("layers", ("x",)),)),
    Architecture(
        "Ideogram 4", "comfy.ldm.ideogram4.model.Ideogram4Transformer2DModel",
        (Stack("layers", ("x",), shared=("freqs_cis",)),),
    ),
    Architecture(
        "JoyImage", "comfy.ldm.joyimage.model.JoyImageTransformer3DModel",
        (Stack("double_blocks", _PICTURE_FIRST, shared=("image_rotary_emb",)),),
    ),
    Architecture(
        "Kandinsky 5", "comfy.ldm.kandinsky5.model.Kandinsky5",
        (Stack("visual_transformer_blocks", ("visual_embed",), shared=("freqs",)),),
    ),
    Architecture("Krea 2", "comfy.ldm.krea2.model.SingleStreamDiT", (Stack("blocks", ("x",)),)),
    Architecture(
        "Lens", "comfy.ldm.lens.model.LensTransformer2DModel",
        (Stack("transformer_blocks", _TEXT_FIRST, probe="hidden_states", shared=("freqs_cis",)),),
    ),
    Architecture(
        "Mage-Flow", "comfy.ldm.mage_flow.model.MageFlowTransformer2DModel",
        (Stack("transformer_blocks", _TEXT_FIRST, probe="hidden_states"),),
    ),
    Architecture(
        "PixelDiT", "comfy.ldm.pixeldit.model.PixDiT_T2I",
        (Stack("patch_blocks", ("x", "y")), Stack("pixel_blocks", ("x",))),
        also=("comfy.ldm.pixeldit.pid.PidNet",), covers="PiD",
    ),
    # The shapes pass through unchanged, so their residual is zero.
    Architecture(
        "SeedVR2", "comfy.ldm.seedvr.model.NaDiT",
        (Stack("blocks", ("vid", "txt", "vid_shape", "txt_shape"), packed=True),),
    ),
    Architecture("TripoSplat", "comfy.ldm.triposplat.model.LatentSeqMMFlowModel", (Stack("blocks", ("x",)),)),
    Architecture(
        "ACE-Step", "comfy.ldm.ace.model.ACEStepTransformer2DModel", (Stack("transformer_blocks", ("hidden_states",)),),
    ),
    Architecture(
        "ACE-Step 1.5", "comfy.ldm.ace.ace_step15.AceStepConditionGenerationModel",
        (Stack("decoder.layers", ("hidden_states",)),),
    ),
    Architecture(
        "Stable Audio", "comfy.ldm.audio.dit.AudioDiffusionTransformer", (Stack("transformer.layers", ("x",)),),
    ),
)
# fmt: on

# Without one list of equal blocks, but with a first block that core lets us see: `unet_blocks.py`.
UNETS: tuple[str, ...] = ("comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel",)

# Models of core that First Block Cache does not take, and why.
_CASCADE = "Stable Cascade is a UNet of its own, without one list of equal blocks; use Velocity Forecast"
EXCEPTIONS: dict[str, str] = {
    "comfy.ldm.wan.ar_model.CausalWanModel": (
        "the ar_video sampler has each block keep keys and values for the frames to come; leave this node out"
    ),
    "comfy.ldm.wan.model_animate2.WanAnimate2Model": (
        "each block runs for the video that drives the motion as well, by other methods than its forward; use "
        "Velocity Forecast"
    ),
    "comfy.ldm.sensenova.model.SenseNovaU15": (
        "its blocks are a language model's, with a cache of the prompt and other methods than forward; use "
        "Velocity Forecast"
    ),
    "comfy.ldm.trellis2.model.Trellis2": (
        "which of its stages runs is chosen in each call, on sparse tensors; leave this node out"
    ),
    "comfy.ldm.prism.model.Prism": "which of its two towers runs is chosen in each call; use Velocity Forecast",
    "comfy.ldm.cascade.stage_b.StageB": _CASCADE,
    "comfy.ldm.cascade.stage_c.StageC": _CASCADE,
    "comfy.ldm.rt_detr.rtdetr_v4.RTv4": "it detects objects in one call, there are no steps to skip",
    "comfy.ldm.depth_anything_3.model.DepthAnything3Net": "it estimates depth in one call, there are no steps to skip",
    "comfy.ldm.sam3.detector.SAM3Model": "it segments in one call, there are no steps to skip",
}
