"""The inputs that Offload and Remote Sampler share."""

from typing import Any

from comfy_api.latest import io

from ..remote.client.options import ALL_SAMPLERS, RAISE, RUN_LOCALLY, THIS_SAMPLER, Options
from .advanced import advanced

ROUTES = ["auto", "remote", "local"]


def endpoint() -> io.Input:
    """Return the input for the endpoint's name."""
    return io.String.Input(
        "endpoint",
        default="default",
        tooltip="A name from the settings, never an address or a key. `default` is the endpoint of the environment "
        "(VELOCITY_ENDPOINT) or of that name in the private file endpoints.json.",
    )


def route() -> io.Input:
    """Return the input for where to run."""
    return io.Combo.Input(
        "route",
        options=ROUTES,
        default="auto",
        tooltip="auto: where earlier runs say it is done sooner. remote: on the endpoint. local: on this machine, "
        "exactly as without this node.",
    )


def advanced_inputs() -> list[io.Input]:
    """Return the inputs that ComfyUI folds away."""
    return [
        advanced(
            io.Combo,
            "on_failure",
            "When the endpoint fails: run the same sampler here with the same seed, or stop with the error.",
            options=[RUN_LOCALLY, RAISE],
            default=RUN_LOCALLY,
        ),
        advanced(
            io.Combo,
            "text_encoding",
            "local: text encoders run here and only embeddings leave. remote: they run on the endpoint, and the prompt "
            "text leaves this machine.",
            options=["local", "remote"],
            default="local",
        ),
        advanced(
            io.Float,
            "deadline_seconds",
            "Give up on the endpoint after so many seconds, queue included. 0: wait as long as it works.",
            default=0.0,
            min=0.0,
            max=86400.0,
            step=1.0,
        ),
        advanced(
            io.Combo,
            "samplers",
            "Where samplers follow one another (two experts, a refiner, a second pass): all before it: the whole chain "
            "is one job, and latents between them never travel. this sampler: those before it run here.",
            options=[ALL_SAMPLERS, THIS_SAMPLER],
            default=ALL_SAMPLERS,
        ),
    ]


def options(values: dict[str, Any]) -> Options:
    """Return the widgets' values. Raises `ValueError` for one that is no choice, as a linked widget can be."""
    chosen = Options(**values)
    choices = (
        ("route", chosen.route, ROUTES),
        ("on_failure", chosen.on_failure, [RUN_LOCALLY, RAISE]),
        ("text_encoding", chosen.text_encoding, ["local", "remote"]),
        ("samplers", chosen.samplers, [ALL_SAMPLERS, THIS_SAMPLER]),
    )
    for name, value, allowed in choices:
        if value not in allowed:
            raise ValueError(f"Offload: {name} is {value!r}; choose one of {', '.join(allowed)}")
    return chosen
