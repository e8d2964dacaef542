"""A pack for the worker of the offload benchmark: when did the model finish each of its calls?"""

import time
from pathlib import Path

TIMES = Path(__file__).with_name("times.txt")  # one line per call, seconds of the monotonic clock, all jobs


class StepClock:
    """Passes a model on that notes when a call of it ends. The monotonic clock is the same in all processes."""

    CATEGORY, FUNCTION, RETURN_TYPES = "benchmark", "watch", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802
        """Return the node's inputs, as ComfyUI asks for them."""
        return {"required": {"model": ("MODEL",)}}

    def watch(self, model: object) -> tuple[object]:
        """Return a clone of the model that writes a line for each call."""

        def timed(apply_model, arguments: dict) -> object:
            result = apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
            with TIMES.open("a", encoding="ascii") as file:
                file.write(f"{time.monotonic()!r}\n")
            return result

        watched = model.clone()
        watched.set_model_unet_function_wrapper(timed)
        return (watched,)


NODE_CLASS_MAPPINGS = {"StepClock": StepClock}
