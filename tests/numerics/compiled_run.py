"""Run by `test_cache_neighbours.py`: samples a tiny Flux compiled as a whole, prints full calls and PSNR (dB) of each.

The backend is "eager": the whole machinery of torch.compile but for the code generation, so no C++ compiler is needed.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from dev.host import import_comfyui, import_pack  # noqa: E402


def main() -> None:
    """Sample uncached, then with each technique before and behind the compile node; the last one must refuse."""
    import_comfyui()
    import comfy.cli_args

    comfy.cli_args.args.use_pytorch_cross_attention = True
    import_pack()
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
    from sampling import Result, last_record, psnr, run_sampler, tiny_flux
    from techniques import FIRST_BLOCK, FIRST_BLOCK_TAIL, FORECAST

    def compiled(model):
        model = model.clone()
        set_torch_compile_wrapper(model, backend="eager", options={"guard_filter_fn": skip_torch_compile_dict})
        return model

    settings = {"steps": 12}
    reference = Result(run_sampler(tiny_flux(), **settings), ())
    for technique in (FORECAST, FIRST_BLOCK):
        for nodes in ((compiled, technique.apply), (technique.apply, compiled)):
            model = nodes[1](nodes[0](tiny_flux()))
            result = Result(run_sampler(model, **settings), ())  # `sample` would watch it, and so compile again
            sys.stdout.write(f"{last_record(model).full} {psnr(reference, result)}\n")
    try:
        run_sampler(FIRST_BLOCK_TAIL.apply(compiled(tiny_flux())), **settings)
    except ValueError as error:
        sys.stdout.write(f"{error}\n")


if __name__ == "__main__":
    main()
