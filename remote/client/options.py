"""What the user chose in the widgets of Offload and Remote Sampler."""

from dataclasses import dataclass

RUN_LOCALLY, RAISE = "run locally", "raise"
ALL_SAMPLERS, THIS_SAMPLER = "all before it", "this sampler"


@dataclass(frozen=True)
class Options:
    """The widgets. `route` is `auto`, `remote` or `local`; `deadline_seconds` 0 is none."""

    endpoint: str = "default"
    route: str = "auto"
    on_failure: str = RUN_LOCALLY
    text_encoding: str = "local"
    deadline_seconds: float = 0.0
    samplers: str = ALL_SAMPLERS
