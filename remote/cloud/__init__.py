"""Cloud APIs that take prompts and media and return media: what is submitted once, kept track of, paid and fetched."""
