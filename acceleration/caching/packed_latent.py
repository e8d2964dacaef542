"""Video and sound in one latent: ComfyUI packs such parts into one (B, 1, N); here is where each begins.

Each part is judged by itself and the worst decides: in a norm over all, a small part beside a large one has no voice.
"""

import math
from collections.abc import Sequence

import torch

Shapes = Sequence[Sequence[int]]  # (B, ...) of each part, core's `latent_shapes`


def part_sizes(latent: torch.Tensor, conds: Sequence[list[dict] | None], shapes: Shapes | None) -> tuple[int, ...]:
    """Return the numbers of a sample of `latent` (B, ...) that each part has; their sum, where it is one part.

    What the model itself is told (in `conds`, for a context window other than for the whole) comes before `shapes`.
    """
    told = (entry["model_conds"].get("latent_shapes") for conditioning in conds for entry in conditioning or ())
    shapes = next((constant.cond for constant in told if constant is not None), shapes) or ()
    whole, sizes = math.prod(latent.shape[1:]), tuple(math.prod(shape[1:]) for shape in shapes)
    return sizes if sum(sizes) == whole else (whole,)
