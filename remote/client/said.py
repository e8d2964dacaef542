"""Words of an endpoint, made fit to be shown and logged: another server may be there, or one that means harm."""

import unicodedata

LONGEST = 1000  # characters
# The page of older frontends takes these for markup; newer ones make links of double brackets.
HARMLESS = str.maketrans({"<": "\u2039", ">": "\u203a"})


def harmless(text: str, longest: int = LONGEST) -> str:
    """Return the text on one line, without control characters and markup, and not too long."""
    kept = text[: longest + 1]
    plain = "".join(" " if unicodedata.category(mark)[0] in "CZ" else mark for mark in kept).translate(HARMLESS)
    plain = plain.replace("[[", "[ [").strip()
    return plain if len(text) <= longest else plain[:longest] + "..."
