"""Makes the denoiser cheap on the GPU at hand. Knows torch and ComfyUI's extension hooks; knows no node, no network."""
