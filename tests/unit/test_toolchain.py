"""Where nothing can be compiled: the log says why and what to do, and the model runs as it is."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from velocity_nodes.acceleration.compiling.toolchain import CACHEABLE, compile_options, problem

from dev.host import ROOT

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# Samples a step with the node in a process that finds no compiler.
PROGRAM = """
import logging, sys
logging.basicConfig(format="%(message)s")
sys.path.insert(0, sys.argv[1])
from tests.numerics import pytorch_attention
from dev.host import import_pack
import_pack()
import torch
from tests.numerics.sampling import run_sampler, tiny_flux
from velocity_nodes.acceleration.compiling.compile import CompileConfig, apply_compile
with torch.inference_mode():
    expected = run_sampler(tiny_flux(), steps=1)
    compiled = apply_compile(tiny_flux(), CompileConfig(backend=sys.argv[2]))
    assert torch.equal(run_sampler(compiled, steps=1), expected)
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems look for their compilers elsewhere")
@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("inductor", "there is no C++ compiler, which the CPU needs. Linux: install g++"),
        ("cudagraphs", "the backend 'cudagraphs' needs an NVIDIA card; choose 'inductor'"),
    ],
)
def test_runs_uncompiled_and_says_why(backend: str, reason: str, tmp_path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC")}
    environment["PATH"] = str(tmp_path)
    command = [sys.executable, "-c", PROGRAM, str(ROOT), backend]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0"]
    assert done.stderr.count("Compile Model+") == 1
    assert f"the model runs uncompiled, as {reason}" in done.stderr


def test_a_compiler_is_found_and_eager_needs_none() -> None:
    assert problem("inductor", CPU, set()) is None
    assert problem("eager", CUDA, {torch.float8_e4m3fn}) is None


class TestCards:
    """No card is at hand: what torch says of it is given."""

    def test_no_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        words = problem("inductor", CUDA, set())
        assert "pip install triton-windows" in words and "cudagraphs" in words
        assert problem("cudagraphs", CUDA, set()) is None

    @pytest.mark.parametrize(("capability", "fits"), [((8, 6), False), ((8, 9), True), ((9, 0), True)])
    def test_float8_before_ada(self, monkeypatch: pytest.MonkeyPatch, capability: tuple, fits: bool) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA GeForce RTX 3090")
        words = problem("inductor", CUDA, {torch.float8_e4m3fn, torch.float32})
        assert (words is None) == fits
        assert fits or "Load the model as bf16, fp16 or int8" in words
        assert problem("inductor", CUDA, {torch.bfloat16}) is None


class TestOptions:
    @pytest.mark.parametrize(("dynamic", "expected"), [("auto", None), ("on", True), ("off", False)])
    def test_dynamic(self, dynamic: str, expected: bool | None) -> None:
        assert compile_options("eager", "default", dynamic, True, CPU) == {
            "backend": "eager",
            "fullgraph": True,
            "dynamic": expected,
        }

    def test_modes_become_options(self) -> None:
        plain = compile_options("inductor", "default", "auto", False, CUDA)["options"]
        tuned = compile_options("inductor", "max-autotune", "auto", False, CUDA)["options"]
        assert list(plain) == [CACHEABLE]
        assert tuned["max_autotune"] and tuned["triton.cudagraphs"]

    def test_torch_takes_them_all(self) -> None:
        for mode in ("default", "max-autotune-no-cudagraphs", "max-autotune", "reduce-overhead"):
            torch.compile(torch.sin, **compile_options("inductor", mode, "auto", False, CPU))

    def test_what_the_user_marked_cacheable_stays(self) -> None:
        with torch._inductor.config.patch({CACHEABLE: {"mine": "1"}}):
            marked = compile_options("inductor", "default", "auto", False, CUDA)["options"][CACHEABLE]
        assert marked["mine"] == "1" and "torch.nn.attention._sdpa_kernel" in marked
        assert not getattr(torch._inductor.config, CACHEABLE)  # nobody else's compiles see it
