"""The precision benchmark runs from end to end, and the loader leaves no holes in memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comfy.model_detection import model_config_from_unet
from PIL import Image

from benchmarks.precision_load import flux_shapes, measure_load, write_flux_shaped
from dev.host import ROOT


@pytest.mark.soak("a minute and a half of a benchmark whose parts the tests of the loader have")
def test_quick_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.precision", "--quick", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr[-2000:]
    data = json.loads((tmp_path / "precision.json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in data["rows"]}
    assert len(rows) >= 7 and all(row["file_size"] and row["size"] for row in rows.values())
    assert rows["bf16"]["error"] == 0 and rows["bf16"]["psnr_worst"] == 99
    assert all(0 < row["error"] < 0.12 and 25 < row["psnr_worst"] < 90 for n, row in rows.items() if n != "bf16")
    judged = {verdict["name"]: verdict["met"] for verdict in data["targets"]}
    assert len(judged) == 12 and judged["ours fp8 fast, error of a call"] and judged["ours fp8 scaled, error of a call"]
    assert "ours fp8 scaled" in (tmp_path / "precision.md").read_text(encoding="utf-8")
    with Image.open(tmp_path / "precision.png") as picture:
        assert picture.width == 1400 and len(picture.convert("RGB").getcolors(10**6)) > 20


def test_its_file_has_the_shape_of_flux() -> None:
    shapes = flux_shapes(3072, 19, 38)
    weights = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    assert sum(weight.numel() for weight in weights.values()) == 11_901_408_320  # as FLUX.1-dev has
    config = model_config_from_unet(weights, "").unet_config
    assert (config["depth"], config["depth_single_blocks"], config["guidance_embed"]) == (19, 38, True)


@pytest.mark.skipif(sys.platform == "win32", reason="memory is counted in another way there")
def test_what_is_freed_during_a_load_goes_back_to_the_system(tmp_path: Path) -> None:
    path = tmp_path / "flux.safetensors"
    written = write_flux_shaped(path, 384, 19, 38)
    load = measure_load("ours fp8 scaled", path, 1)
    assert load.size < 0.6 * written
    assert load.peak_private < 1.15 * load.size  # without that it is 1.5 to 2.4 times
