"""`velocity serve`: takes denoising jobs over HTTP and has supervised ComfyUI workers run them (docs/protocol.md)."""
