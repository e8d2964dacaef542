"""torch.compile, once for each kind of block, and what it needs, keeps and measures."""
