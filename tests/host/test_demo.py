"""What `nox -s demo` shows is true: calls are skipped, the pictures stay near, the report is drawn."""

import torch

from acceleration.report.quality import psnr_each
from demo.pictures import load
from demo.run import PICTURES, STEPS, paint_all, report, table
from dev.server import ComfyServer


def test_the_demo_skips_calls_and_keeps_the_pictures(server: ComfyServer) -> None:
    stock, fast = paint_all(server)
    assert stock.full == [STEPS] * len(PICTURES) and stock.skipped == [0] * len(PICTURES)
    assert [full + skipped for full, skipped in zip(fast.full, fast.skipped, strict=True)] == stock.full
    assert sum(stock.full) / sum(fast.full) > 2
    quality = psnr_each(torch.stack(stock.images), torch.stack(fast.images))
    # One of the four grows a few pixels that the stock picture has not; the demo shows it as it is.
    assert sorted(quality)[1] > 45 and min(quality) > 28
    assert f"{sum(fast.skipped)}" in table(stock, fast, quality)


def test_the_report_describes_the_run(server: ComfyServer) -> None:
    picture, text = report(server)
    assert load(picture).shape[1] == 1024
    assert f"{STEPS} calls" in text and "PSNR" in text
