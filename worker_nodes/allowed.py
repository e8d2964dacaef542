"""Which node classes a client may use: a rule, so that it fits every version of ComfyUI.

Allowed is what turns models, conditioning and latents into others of these, in ComfyUI itself and in this pack. Not
allowed is what shows or saves, what reads files that are no models, what calls web services, and other packs' nodes.
"""

GRAPH_TYPES = frozenset(
    "MODEL CLIP VAE CONDITIONING LATENT GUIDER SAMPLER SIGMAS NOISE CONTROL_NET STYLE_MODEL CLIP_VISION "
    "CLIP_VISION_OUTPUT GLIGEN HOOKS HOOK_KEYFRAMES TIMESTEPS_RANGE MODEL_PATCH LATENT_OPERATION LATENT_UPSCALE_MODEL "
    "PHOTOMAKER AUDIO_ENCODER AUDIO_ENCODER_OUTPUT WAN_CAMERA_EMBEDDING".split()
)
BESIDE_THEM = frozenset({"INT", "FLOAT", "BOOLEAN"})
CORE_MODULES = ("nodes", "comfy_extras.")
# Read files of the input or output folder, or expand to another endpoint.
NEVER = frozenset({"LoadLatent", "LoadTrainingDataset", "VelocityOffload", "VelocityRemoteSampler", "VelocityDispatch"})


def is_allowed(name: str, node_class: type, pack: str) -> bool:
    """Whether clients may use this class. `pack` is the module name of this pack."""
    if name in NEVER or getattr(node_class, "OUTPUT_NODE", False):
        return False
    if getattr(node_class, "API_NODE", False) or not _from_here(node_class, pack):
        return False
    types = [str(kind) for kind in getattr(node_class, "RETURN_TYPES", ())]
    return any(kind in GRAPH_TYPES for kind in types) and all(kind in GRAPH_TYPES | BESIDE_THEM for kind in types)


def _from_here(node_class: type, pack: str) -> bool:
    module = getattr(node_class, "RELATIVE_PYTHON_MODULE", "nodes")
    core = module == CORE_MODULES[0] or module.startswith(CORE_MODULES[1])
    return core or node_class.__module__.startswith(f"{pack}.nodes.")
