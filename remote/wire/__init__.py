"""What travels between a ComfyUI and an endpoint: blobs, values, and the limits of both. See docs/protocol.md."""
