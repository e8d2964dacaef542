"""Quantised weights: choosing, loading, multiplying and saving them, in ComfyUI's own formats."""
