"""Mutations of valid requests: one or more values of a manifest changed, or bytes of any body."""

import copy
from random import Random
from typing import Any

from hypothesis import strategies as st

LONG_TEXT, DEEP = "x" * 30_000, 40
NAME = "ab" * 32
SEEDS = st.integers(0, 1 << 64)
SPECIAL_BYTES = [
    b"-",
    b"9" * 30,
    b"[" * 50,
    b"{" * 50,
    b"\xff" * 8,
    b"\0",
    b"1e999",
    b"NaN",
    b'"t"',
    b'"@cut"',
    b"\\ud800",
]
NAMES = ["", "x", "@", "@cut", "@tensor", "@fill", "@x", "rows", "shape", "steps", "x.steps", "batch_size", "protocol"]
NAMES += ["order", "repeated"]


def deep(depth: int) -> list:
    """Return lists in lists."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


# What a hostile client would try, beside random JSON.
SPECIAL: list[Any] = [
    *(None, True, -1, 0, 1, 1.5, -0.0, 1 << 31, 1 << 53, (1 << 64) - 1, -(1 << 63), 1 << 64, 10**30, 1e308),
    *("", "x", "\0", "\ud800", LONG_TEXT, "../../etc/passwd", "/x.safetensors", "C:\\x.ckpt", "embedding:../a.pt"),
    *("1000000", "1e999", "nan", "1", "2", "3", "KSampler", "LoadImage", "VelocityReceive", "VelocityReturn"),
    *("batch_size", "width", "steps", "samples", "__class__", "%s%n", "{0.__class__}", "@cut", "@tensor"),
    *([], {}, [[]], deep(DEEP), [1] * 500, ["1", 0], ["2", 0], ["9", 0], ["1", -1], ["1", 1 << 40], ["1", 0.5], [1, 0]),
    *({"@cut": 0}, {"@cut": 1}, {"@cut": -1}, {"@cut": 99}, {"@cut": True}, {"@cut": 0, "x": 1}, {"@x": 1}, {"": 1}),
    {"@tensor": NAME, "dtype": "float32", "shape": [1, 2, 3]},
    {"@tensor": NAME, "dtype": "float32", "shape": [1, 2, 3], "rows": 4},
    {"@tensor": NAME, "dtype": "float32", "shape": [1, 2, 3], "order": [2, 0, 1], "repeated": [1]},
    {"@fill": 0.0, "dtype": "float32", "shape": [1 << 20, 1 << 20], "repeated": [0, 1]},
    {"@tensor": "../../x", "dtype": "float32", "shape": [1]},
    {"@fill": 0.0, "dtype": "float32", "shape": [1 << 20, 1 << 20]},
    {"@fill": 0.0, "dtype": "float64", "shape": [1 << 47] * 8},
    {"@fill": 0.0, "dtype": "float32", "shape": [-1, -8]},
    {"@fill": 0.0, "dtype": "float32", "shape": [1, 16, 16, 16]},
    {"@fill": 1e300, "dtype": "float16", "shape": [4]},
    {"@fill": 10**25, "dtype": "uint8", "shape": [4]},
    {"@fill": 0, "dtype": "complex64", "shape": []},
    {"@fill": [0], "dtype": "bool", "shape": [0]},
    {"@tuple": [1, {"@tuple": []}]},
    {"@tuple": {"@tuple": 1}},
    {"@nested": [{"@fill": 0.0, "dtype": "float32", "shape": [1, 2]}]},
    {"@nested": [1]},
    {"@clip_vision": {"image_embeds": None}},
    {"@clip_vision": {"__class__": 1}},
    {"class_type": "KSampler", "inputs": {}},
    {"class_type": "EmptyLatentImage", "inputs": {"width": 1 << 30, "height": 1 << 30, "batch_size": 4096}},
]


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """Draw a copy of `valid` with one to three changes: a value replaced, removed, doubled, or added beside.

    Hypothesis draws the seed only: it would take ten times as long to draw each choice.
    """
    random = Random(draw(SEEDS))
    tree = copy.deepcopy(valid)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        path = random.choice(places(tree))
        if not path:
            if random.random() < 0.1:
                return any_value(random)
            continue
        parent, key = tree, path[-1]
        for step in path[:-1]:
            parent = parent[step]
        action = random.choice(["replace", "replace", "replace", "remove", "add", "double"])
        value = copy.deepcopy(parent[key]) if action == "double" else any_value(random)
        if action == "remove":
            del parent[key]
        elif action == "replace":
            parent[key] = value
        elif isinstance(parent, list):
            parent.insert(key, value)
        else:
            parent[random.choice(NAMES)] = value
    return tree


@st.composite
def garbled(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw `valid` with some bytes changed, removed or added, mostly near its begin."""
    random, data = Random(draw(SEEDS)), bytearray(valid)
    for _ in range(random.randint(1, 4)):
        begin = random.randint(0, random.choice([len(data), min(len(data), 120)]))
        end = min(len(data), begin + random.randint(0, 16))
        data[begin:end] = random.choice([random.randbytes(random.randint(0, 8)), *SPECIAL_BYTES])
    return bytes(data)


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    """Return the paths to every value in a JSON value, the outermost first."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path] + [place for key, item in inner for place in places(item, (*path, key))]


def any_value(random: Random) -> Any:
    """Return a special value, a number or text at random, or a list or dict of such."""
    kind = random.randrange(10)
    if kind < 6:
        return copy.deepcopy(random.choice(SPECIAL))
    if kind == 6:
        return random.choice([random.randint(-(1 << 65), 1 << 65), random.uniform(-1e6, 1e6), random.randint(-3, 300)])
    if kind == 7:
        return "".join(chr(random.choice([random.randrange(128), random.randrange(0x11000)])) for _ in range(6))
    if kind == 8:
        return [any_value(random) for _ in range(random.randrange(4))]
    return {random.choice(NAMES): any_value(random) for _ in range(random.randrange(4))}
