"""The demo's codecs: the trained weights depend on these exact numbers."""

import hashlib

import pytest
import torch

from demo.tiny_flux.codecs import decode_latent, encode_image, encode_prompt
from demo.tiny_flux.drawing import Scene, draw
from demo.tiny_flux.words import SHAPES, VOCABULARY

PROMPT = "a large red circle at the left on a blue background"


def test_word_vectors_are_the_trained_ones() -> None:
    tokens, pooled = encode_prompt(PROMPT)
    assert tokens.shape == (1, 12, 64) and pooled.shape == (1, 64)
    assert torch.equal(pooled, tokens.mean(1))
    assert (
        hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
        == "72185a65825a104b6647fb0c7307d4e6297045ca171ae30f0b3a50f12f0ae1b1"
    )


def test_every_word_counts() -> None:
    assert not torch.equal(encode_prompt(PROMPT)[0], encode_prompt(PROMPT.replace("red", "green"))[0])


def test_unknown_words_are_named_and_the_known_ones_listed() -> None:
    with pytest.raises(ValueError, match="words 'pink', 'cat'") as error:
        encode_prompt("a pink cat")
    assert all(word in str(error.value) for word in VOCABULARY[1:])


def test_a_long_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="reads 12 words and the prompt has 13"):
        encode_prompt(" ".join(["a"] * 13))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_drawn_picture_survives_the_round_trip(shape: str) -> None:
    picture = draw(Scene("large", "red", shape, "left", "blue"))[None]
    latent = encode_image(picture)
    assert latent.shape == (1, 16, 16, 16)
    error = (decode_latent(latent) - picture).square().mean()
    assert 10 * torch.log10(4 / error) > 25  # dB; edges lose a little to the coefficients that are not kept


def test_a_latent_survives_the_round_trip() -> None:
    latent = encode_image(draw(Scene("small", "white", "ring", "top", "black"))[None])
    assert torch.allclose(encode_image(decode_latent(latent)), latent, atol=1e-5)


def test_a_flat_picture_is_exact() -> None:
    picture = torch.full((2, 3, 16, 24), 0.3)
    assert torch.allclose(decode_latent(encode_image(picture)), picture, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 3, 60, 64), (1, 4, 64, 64)])
def test_an_unfit_image_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        encode_image(torch.zeros(size))


def test_a_latent_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="16 channels, got 4"):
        decode_latent(torch.zeros(1, 4, 8, 8))
