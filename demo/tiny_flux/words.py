"""The words the tiny model knows. A prompt has the form "a large red circle at the left on a blue background"."""

COLOURS = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.75, 0.2),
    "blue": (0.15, 0.25, 0.9),
    "yellow": (0.95, 0.85, 0.1),
    "white": (0.95, 0.95, 0.95),
    "black": (0.05, 0.05, 0.05),
    "orange": (0.95, 0.5, 0.1),
    "purple": (0.55, 0.15, 0.7),
}
SHAPES = ("circle", "square", "triangle", "ring")
PLACES = {"left": (-0.4, 0.0), "right": (0.4, 0.0), "top": (0.0, -0.4), "bottom": (0.0, 0.4), "center": (0.0, 0.0)}
SIZES = {"small": 0.3, "large": 0.55}

# The order is part of the trained weights: a word's vector is the row at its index.
VOCABULARY = ("<pad>", "a", "on", "background", "at", "the", *COLOURS, *SHAPES, *PLACES, *SIZES)
PROMPT_WORDS = 12


def word_indices(prompt: str) -> list[int]:
    """Return the vocabulary index of each word of `prompt`, padded with 0 to 12.

    Raises `ValueError` for a word outside the vocabulary and for a prompt of more than 12 words.
    """
    words = prompt.lower().replace(",", " ").split()
    unknown = [word for word in words if word not in VOCABULARY[1:]]
    if unknown:
        raise ValueError(
            f"Tiny Flux does not know the word{'s' * (len(unknown) > 1)} {', '.join(map(repr, unknown))}. "
            f"Use only: {' '.join(VOCABULARY[1:])}. Example: a large red circle at the left on a blue background"
        )
    if len(words) > PROMPT_WORDS:
        raise ValueError(f"Tiny Flux reads {PROMPT_WORDS} words and the prompt has {len(words)}: shorten it")
    return [VOCABULARY.index(word) for word in words] + [0] * (PROMPT_WORDS - len(words))
