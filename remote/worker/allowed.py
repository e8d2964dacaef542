"""Which node classes a client may use: a rule, so that it fits every version of ComfyUI.

Allowed is what turns models, conditioning and latents into others of these, in ComfyUI itself and in this pack. Not
allowed is what shows or saves, what reads files that are no models, what calls web services, and other packs' nodes.
"""

GRAPH_TYPES = frozenset(
    "MODEL CLIP VAE CONDITIONING LATENT GUIDER SAMPLER SIGMAS NOISE CONTROL_NET STYLE_MODEL CLIP_VISION "
    "CLIP_VISION_OUTPUT GLIGEN HOOKS HOOK_KEYFRAMES TIMESTEPS_RANGE MODEL_PATCH LATENT_OPERATION LATENT_UPSCALE_MODEL "
    "PHOTOMAKER AUDIO_ENCODER AUDIO_ENCODER_OUTPUT WAN_CAMERA_EMBEDDING TRACKS IC_LORA_PARAMETERS".split()
)
BESIDE_THEM = frozenset({"INT", "FLOAT", "BOOLEAN"})
# Core's, with outputs of other kinds: what leads from one sampler to the next, and what chooses between branches.
BY_NAME = frozenset(
    "ComfySwitchNode VAEDecode VAEDecodeTiled ImageScale ImageScaleBy ImageScaleToTotalPixels ImageUpscaleWithModel "
    "UpscaleModelLoader SAM3_Detect".split()
)
CORE_MODULES = ("nodes", "comfy_extras.")
NEVER = frozenset({"LoadLatent", "LoadTrainingDataset"})  # they read files of the input and output folders
NEVER_OURS = frozenset({"LATENT"})  # what gives latents in this pack is Offload, which would call another endpoint


def is_allowed(name: str, node_class: type, pack: str) -> bool:
    """Whether clients may use this class. `pack` is the module name of this pack."""
    if name in NEVER or getattr(node_class, "OUTPUT_NODE", False):
        return False
    types = {str(kind) for kind in getattr(node_class, "RETURN_TYPES", ())}
    module = (
        getattr(node_class, "RELATIVE_PYTHON_MODULE", "nodes") or ""
    )  # new classes name none before they are loaded
    if node_class.__module__.startswith(f"{pack}.nodes."):
        known = not types & NEVER_OURS
    else:
        known = module == CORE_MODULES[0] or module.startswith(CORE_MODULES[1])
    return known and (name in BY_NAME or (bool(types & GRAPH_TYPES) and types <= GRAPH_TYPES | BESIDE_THEM))
