"""PSNR against values known by arithmetic, SSIM against its definition's fixed points, and the errors."""

import math

import pytest
import torch
from velocity_nodes.acceleration.report.quality import compare, psnr, psnr_each, ssim, ssim_each

GREY = torch.full((1, 16, 24, 3), 0.5)


def noise(seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 16, 24, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("shift", "decibel"), [(0.1, 20.0), (0.01, 40.0), (0.5, 6.0206)])
def test_psnr_of_a_constant_shift(shift, decibel):
    assert psnr(GREY, GREY + shift) == pytest.approx(decibel, abs=1e-3)
    assert psnr(GREY + shift, GREY) == pytest.approx(decibel, abs=1e-3)


def test_psnr_of_one_wrong_pixel():
    wrong = GREY.clone()
    wrong[0, 3, 5] = 1.0  # squared error 0.25 in 3 of 16 * 24 * 3 numbers
    assert psnr(GREY, wrong) == pytest.approx(10 * math.log10(16 * 24 / 0.25))


def test_identical_is_infinite():
    assert psnr(noise(), noise()) == math.inf
    assert compare(noise(), noise()).psnr == (math.inf,)


def test_batch_per_image_worst_and_mean():
    reference = GREY.repeat(3, 1, 1, 1)
    result = reference.clone()
    result[1] += 0.1
    result[2] += 0.01
    quality = compare(reference, result)
    assert list(quality.psnr) == pytest.approx([math.inf, 20.0, 40.0], abs=1e-3)
    assert list(quality.psnr) == psnr_each(reference, result)
    assert quality.worst == 1
    pooled = -10 * math.log10((0.1**2 + 0.01**2) / 3)
    assert quality.mean_psnr == pytest.approx(pooled, abs=1e-3)
    assert psnr(reference, result) == pytest.approx(pooled, abs=1e-3)


def test_a_result_that_is_not_a_number_is_the_worst():
    result = noise(batch=2)
    result[1] = math.nan
    quality = compare(noise(batch=2), result)
    assert math.isnan(quality.psnr[1]) and math.isnan(quality.mean_psnr)
    assert quality.worst == 1


def test_half_precision_is_compared_in_full():
    assert psnr(GREY.half(), (GREY + 0.25).half()) == pytest.approx(12.0412, abs=1e-3)


def test_ssim_fixed_points():
    picture = noise()
    assert ssim(picture, picture) == pytest.approx(1.0, abs=1e-5)
    assert ssim(picture, 1 - picture) < -0.5  # same structure, inverted
    assert abs(ssim(picture, noise(seed=1))) < 0.2


def test_ssim_of_two_flat_images_is_the_luminance_term():
    dark, light = 0.4, 0.6
    c1 = 0.01**2
    expected = (2 * dark * light + c1) / (dark**2 + light**2 + c1)
    assert ssim(GREY * 0 + dark, GREY * 0 + light) == pytest.approx(expected, abs=1e-3)


def test_ssim_each_is_per_image():
    reference = noise(batch=2)
    result = reference.clone()
    result[1] = 1 - result[1]
    each = ssim_each(reference, result)
    assert each[0] == pytest.approx(1.0, abs=1e-5)
    assert each[1] < 0
    assert compare(reference, result).mean_ssim == pytest.approx(sum(each) / 2)


@pytest.mark.parametrize("measure", [psnr, psnr_each, ssim, compare])
@pytest.mark.parametrize("shape", [(1, 16, 20, 3), (2, 16, 24, 3), (1, 16, 24, 4), (16, 24, 3)])
def test_different_shapes_are_named(measure, shape):
    with pytest.raises(ValueError, match="same width, height and batch size") as caught:
        measure(GREY, torch.zeros(shape))
    assert "(1, 16, 24, 3)" in str(caught.value)
    assert str(shape) in str(caught.value)


def test_too_small_for_ssim_says_so():
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, got .* 8 x 16 pixels"):
        ssim(torch.zeros(1, 16, 8, 3), torch.zeros(1, 16, 8, 3))


def test_empty_batch_says_so():
    with pytest.raises(ValueError, match="empty"):
        psnr(torch.zeros(0, 16, 16, 3), torch.zeros(0, 16, 16, 3))
