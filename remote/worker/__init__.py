"""The nodes and routes that `velocity serve` adds to its workers; an ordinary ComfyUI never loads them."""

from comfy_api.latest import io


def worker_nodes() -> list[type[io.ComfyNode]]:
    """Add the routes, start to watch the endpoint, and return the node classes. Called once, in a worker."""
    from ..wire.short_text import shorten_logs
    from .batched_sampler import VelocityBatchedSampler
    from .receive import VelocityReceive
    from .routes import add_routes
    from .send_back import VelocityReturn
    from .warm import VelocityWarm
    from .watchdog import exit_with_endpoint

    add_routes()
    exit_with_endpoint()
    shorten_logs()
    return [VelocityReceive, VelocityReturn, VelocityWarm, VelocityBatchedSampler]
