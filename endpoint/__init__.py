"""`velocity serve`: takes denoising jobs over HTTP and has supervised ComfyUI workers run them. See docs/protocol.md."""
