"""ComfyUI-Velocity: First Block Cache, Velocity Forecast and friends, as ComfyUI nodes.

ComfyUI loads this folder and calls `comfy_entrypoint`. Every import waits until then: an import that fails here would
hide its traceback from the user, and would break every tool that merely looks at this folder.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the extension that lists our nodes. Called once by ComfyUI at start."""
    try:
        from .nodes import VelocityExtension
    except Exception:
        import logging

        # ComfyUI reports only the message of an exception raised here, so the traceback is logged first.
        logging.getLogger("velocity").exception("ComfyUI-Velocity could not be loaded")
        raise
    return VelocityExtension()
