"""The supervised ComfyUI processes, and the prompts that they run."""
