"""Patches of other nodes that hand something from each step to the next, block by block.

First Block Cache runs block 0 in each step and the others in full steps only, so what they were handed would be of
another step. Model Sparse Attention on MiniMax H3 quantises each block's values by the scale that it measured there one
step before (margin: a tenth), and clips what has grown further since.
"""

from typing import Any

# File of the function that stands in for a block -> the node's name. On other models that node keeps nothing.
STATEFUL_BLOCKS = {"nodes_sparse_attention": "Model Sparse Attention"}
MARK = "keeps_state_between_steps"  # any function may say so of itself


def refuse_stateful(transformer_options: dict[str, Any]) -> None:
    """Raise `ValueError` when a patch in a run's options would mix steps under First Block Cache."""
    blocks = list(transformer_options.get("patches_replace", {}).get("dit", {}).values())
    modules = [str(getattr(patch, "__module__", "")) for patch in blocks]  # core's own nodes have a path there
    found = [node for file, node in STATEFUL_BLOCKS.items() if any(module.endswith(file) for module in modules)]
    for patch in (*blocks, transformer_options.get("optimized_attention_override")):
        if getattr(patch, MARK, False):
            found.append(str(getattr(patch, "__module__", type(patch).__name__)))
    if found:
        raise ValueError(
            f"{found[0]} hands each block of this model something from the step before, and First Block Cache leaves "
            "out blocks of skipped steps: remove or bypass one of the two"
        )
