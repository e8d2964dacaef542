"""What is let in: pure checks of a manifest, before anything is allocated for it."""
