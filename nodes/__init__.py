"""The V3 node shells: schema and one call each. What they do lives in the packages beside this one."""

import os

from comfy_api.latest import ComfyExtension, io


class VelocityExtension(ComfyExtension):
    """Lists the nodes of the pack for ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return every node class; importing them here keeps the import of the pack itself cheap."""
        from .compile_model import VelocityCompileModel
        from .first_block_cache import VelocityFirstBlockCache
        from .load_diffusion_model import VelocityLoadDiffusionModel
        from .offload import VelocityOffload, VelocityOffloadDispatch, VelocityOffloadLocal
        from .remote_sampler import VelocityRemoteSampler
        from .save_quantized_model import VelocitySaveQuantizedModel
        from .speed_report import VelocitySpeedReport
        from .velocity_forecast import VelocityForecast

        own_nodes = []
        if os.environ.get("VELOCITY_WORKER_FOLDER"):
            from ..remote.worker import worker_nodes

            own_nodes = worker_nodes()
        return [
            *own_nodes,
            VelocityForecast,
            VelocityFirstBlockCache,
            VelocitySpeedReport,
            VelocityCompileModel,
            VelocityLoadDiffusionModel,
            VelocitySaveQuantizedModel,
            VelocityOffload,
            VelocityRemoteSampler,
            VelocityOffloadDispatch,
            VelocityOffloadLocal,
        ]
