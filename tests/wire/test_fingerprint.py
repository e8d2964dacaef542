"""What a fingerprint holds, and what two of them say together."""

import importlib.metadata

from velocity_nodes.remote.wire.fingerprint import fidelity, fingerprint, version

MODELS = {"a.safetensors": "1" * 64}


def test_kernels_are_part_of_it():
    """ComfyUI ships them beside itself, and other versions of them compute other bits."""
    ours = fingerprint()
    assert ours["comfy-kitchen"] == importlib.metadata.version("comfy-kitchen")
    assert ours["comfy-aimdo"] == importlib.metadata.version("comfy-aimdo")
    assert version("no-such-package") is None
    assert fidelity(ours, fingerprint(), MODELS, MODELS)[0] == "exact"


def test_another_version_of_the_kernels_is_close():
    ours = fingerprint()
    level, why = fidelity(ours, ours | {"comfy-kitchen": "0.0.1"}, MODELS, MODELS)
    assert level == "close" and why == f"comfy-kitchen 0.0.1 (here {ours['comfy-kitchen']})"


def test_a_peer_that_knows_fewer_or_more_is_close():
    ours = fingerprint()
    fewer = {key: value for key, value in ours.items() if not key.startswith("comfy-")}
    for one, other in ((ours, fewer), (fewer, ours)):
        level, why = fidelity(one, other, MODELS, MODELS)
        assert level == "close" and "comfy-kitchen" in why and "comfy-aimdo" in why
