"""The demo: a tiny FLUX model that really paints, and a run that shows what the pack buys on it. Not shipped."""
