"""Random damage, the same in every run."""

import random

TOKENS = [b"0", b"9", b"-", b"1e999", b"NaN", b"Infinity", b"[", b"]", b"{", b"}", b",", b'"', b"null", b"@", b"true"]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change, insert, delete, repeat or cut off bytes; numbers and signs of JSON more often than not."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        place = chance.randrange(len(changed) + 1)
        kind = chance.randrange(6)
        if kind == 0 and changed:
            changed[place % len(changed)] = chance.randrange(256)
        elif kind == 1:
            changed[place:place] = chance.choice(TOKENS)
        elif kind == 2:
            del changed[place : place + chance.randrange(1, 9)]
        elif kind == 3:
            piece = changed[place : place + chance.randrange(1, 40)]
            changed[place:place] = piece
        elif kind == 4:
            del changed[place:]
        elif changed:
            changed[place % len(changed)] ^= 1 << chance.randrange(8)
    return bytes(changed)
