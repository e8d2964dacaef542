"""Run by `test_rowwise_kernel.py` with TRITON_INTERPRET=1: puts every matrix of a file through the Triton kernel.

Triton decides when it is imported whether it interprets, so this needs a process of its own. Works without a GPU.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "acceleration" / "precision" / "kernels"))


def main(source: str, target: str) -> None:
    """Read {name: matrix} from `source`; write {name.q, name.scale} to `target` (safetensors)."""
    import rowwise_fp8
    from safetensors.torch import load_file, save_file

    results = {}
    for name, matrix in load_file(source).items():
        results[f"{name}.q"], results[f"{name}.scale"] = rowwise_fp8.quantize_rows_triton(matrix)
    save_file(results, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
