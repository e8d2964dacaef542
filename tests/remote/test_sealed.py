"""What was not written by this process is not believed."""

import json

import pytest
from velocity_nodes.remote.client.sealed import NotSealedError, seal, unseal


def test_what_was_sealed_comes_back_and_is_the_same_text_again():
    value = {"cut": {"kinds": ["MASK"]}, "n": [1, 2.5, None, "ü"]}
    assert unseal(seal(value)) == value
    assert seal(value) == seal(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        json.dumps({"cut": {}}),
        "0" * 64 + "{}",
        "ü" * 64 + "{}",
        seal({"kinds": ["MASK"]}).replace("MASK", "INT"),
        seal({"start": 5}) + " ",
        seal({"start": 5})[1:],
    ],
    ids=range(8),
)
def test_what_was_not_is_refused(text):
    with pytest.raises(NotSealedError, match="place Offload behind the sampler"):
        unseal(text)
