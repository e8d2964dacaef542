"""Where a model's blocks are, and how to see each call of one without copying the model's forward."""
