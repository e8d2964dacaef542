"""What compiled code leaves on disk: the next process finds it, and no file of another kind does harm."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from velocity_nodes.acceleration.compiling import compile_artifacts
from velocity_nodes.acceleration.compiling.compile_artifacts import (
    MAGIC,
    Artifacts,
    artifact_key,
    inductor_folder,
    remove_oldest,
)

from dev.host import ROOT

KEY = {"model": "Flux", "torch": "2"}
# A small function with core's attention on NVIDIA cards, compiled by inductor in a process with an empty cache. Prints
# hits and misses of its caches. A graph that AOTAutograd does not cache counts in neither.
PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from dev.host import import_comfyui, import_pack
import_comfyui(); import_pack()
import torch
from torch._dynamo.utils import counters
from velocity_nodes.acceleration.compiling.compile_artifacts import Artifacts
from velocity_nodes.acceleration.compiling.toolchain import compile_options
artifacts = Artifacts(Path(sys.argv[2]), {"model": "Flux", "torch": "2"})
artifacts.load()
options = compile_options("inductor", "default", "auto", False, torch.device("cpu"))
from torch.nn.attention import SDPBackend, sdpa_kernel
def function(x):
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], set_priority=True):
        x = torch.nn.functional.scaled_dot_product_attention(x, x, x)
    return torch.nn.functional.gelu(x) * 3 + x.sum()
compiled = torch.compile(function, **options)
x = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
with torch.inference_mode():
    assert torch.allclose(compiled(x), function(x), rtol=1e-4)
artifacts.save()
fx, aot = counters["inductor"], counters["aot_autograd"]
assert fx["fxgraph_cache_hit"] == aot["autograd_cache_hit"], aot
print(json.dumps([aot["autograd_cache_hit"], aot["autograd_cache_miss"]]))
"""


def start(folder: Path) -> subprocess.Popen:
    """Start a process that compiles one function and keeps its artifacts in `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(ROOT), str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def result(process: subprocess.Popen) -> tuple[list[int], str]:
    """Return [hits, misses] and the log."""
    out, log = process.communicate(timeout=200)
    assert process.returncode == 0, log
    return json.loads(out.splitlines()[-1]), log


class TestRealArtifacts:
    def test_round_trip(self, tmp_path: Path) -> None:
        home, elsewhere, damaged = (tmp_path / name for name in ("home", "elsewhere", "damaged"))
        assert result(start(home))[0] == [0, 1]
        (kept,) = home.glob("*.bin")
        good = kept.read_bytes()
        for folder, data in ((elsewhere, good), (damaged, good[:-100] + bytes(100))):
            folder.mkdir()
            (folder / kept.name).write_bytes(data)
        again, other, bad = [start(folder) for folder in (home, elsewhere, damaged)]
        assert result(again)[0] == [1, 0]  # inductor's own folder
        assert result(other)[0] == [1, 0]  # nothing but the file
        counts, log = result(bad)
        assert counts == [0, 1]
        assert "is ignored: it is damaged" in log
        assert (damaged / kept.name).read_bytes()[-100:] != bytes(100)  # the next start finds a good one

    @pytest.mark.soak("half a minute of compiling; the round trip is in the gate")
    def test_a_folder_with_a_space(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Inductor's C++ build knows no such folder: its caches stay in the system's, the file is ours."""
        folder = tmp_path / "my models"
        monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the system's are
        assert result(start(folder))[0] == [0, 1]
        assert [path.suffix for path in folder.iterdir()] == [".bin"]

    @pytest.mark.soak("half a minute of compiling; the round trip is in the gate")
    def test_two_processes_at_once(self, tmp_path: Path) -> None:
        for process in [start(tmp_path), start(tmp_path)]:
            result(process)
        assert [path.suffix for path in tmp_path.iterdir() if path.is_file()] == [".bin"]  # no parts are left
        assert Artifacts(tmp_path, KEY)._read()


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifacts:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    return Artifacts(tmp_path / "compile", KEY)


def put(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, payload: bytes = b"payload") -> bytes:
    """Save `payload` as if torch had made it, and return the file's bytes."""
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (payload, None))
    artifacts.save()
    return artifacts.file.read_bytes()


class TestBadFiles:
    def test_a_good_one(self, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
        put(artifacts, monkeypatch, b"first\nsecond")
        assert artifacts._read() == b"first\nsecond"

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda data: data[:-1], "it is damaged"),
            (lambda data: data[:-1] + b"!", "it is damaged"),
            (lambda data: data + b"more", "it is damaged"),
            (lambda _: b"", "it is no file of Compile Model"),
            (lambda _: b"PK\x03\x04 something else", "it is no file of Compile Model"),
            (lambda _: MAGIC, "Expecting value"),
            (lambda _: MAGIC + b"[]\n", "list indices"),
            (lambda data: data.replace(b'"torch": "2"', b'"torch": "3"'), "made for another model, device or version"),
        ],
    )
    def test_is_ignored_with_one_line(
        self, artifacts: Artifacts, monkeypatch, caplog: pytest.LogCaptureFixture, change, reason: str
    ) -> None:
        artifacts.file.parent.mkdir(exist_ok=True)
        artifacts.file.write_bytes(change(put(artifacts, monkeypatch)))
        artifacts.load()
        (record,) = [record for record in caplog.records if record.name == "velocity"]
        assert record.levelno == logging.WARNING
        assert reason in record.getMessage()

    def test_of_another_key_that_was_renamed(self, artifacts: Artifacts, monkeypatch, caplog) -> None:
        other = Artifacts(artifacts.folder, {**KEY, "torch": "3"})
        assert other.file != artifacts.file
        artifacts.folder.mkdir()
        artifacts.file.write_bytes(put(other, monkeypatch))
        assert artifacts._read() is None
        assert "made for another model, device or version" in caplog.text

    def test_that_torch_refuses(self, artifacts: Artifacts, monkeypatch, caplog) -> None:
        put(artifacts, monkeypatch, b"these bytes are ours and whole, but no artifacts")
        artifacts.load()
        assert "can't be used and is ignored" in caplog.text


class TestBadDisk:
    def test_a_full_disk(self, artifacts: Artifacts, monkeypatch, caplog) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"payload", None))
        artifacts.save()
        assert "could not be kept for the next start: [Errno 28]" in caplog.text
        assert not artifacts.file.exists()

    def test_a_file_where_the_folder_should_be(self, artifacts: Artifacts, monkeypatch, caplog) -> None:
        artifacts.folder.write_text("no folder", encoding="utf-8")
        monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"payload", None))
        artifacts.save()
        assert "could not be kept" in caplog.text
        artifacts.load()  # does not raise

    def test_nothing_made_writes_nothing(self, artifacts: Artifacts, monkeypatch) -> None:
        monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: None)
        artifacts.save()
        assert not artifacts.folder.exists()

    def test_too_large_to_keep(self, artifacts: Artifacts, monkeypatch, caplog) -> None:
        monkeypatch.setattr(compile_artifacts, "LARGEST_FILE", 10)
        monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (bytes(11), None))
        artifacts.save()
        assert "too large to keep" in caplog.text
        assert not artifacts.file.exists()


def test_the_oldest_go_first(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "middle", "old"]):
        path = tmp_path / "deep" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    remove_oldest(tmp_path, 300)
    assert len(list(tmp_path.rglob("*"))) == 4
    remove_oldest(tmp_path, 250)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"new", "middle"}
    remove_oldest(tmp_path, 0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


class TestCacheFolder:
    def test_the_users_choice_stays(self, artifacts: Artifacts, monkeypatch, tmp_path: Path) -> None:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "chosen"))
        artifacts.load()
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "chosen")

    def test_the_systems_default_is_left_for_ours(self, artifacts: Artifacts) -> None:
        artifacts.load()
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(artifacts.folder / "inductor")

    def test_is_short_on_windows(self, monkeypatch) -> None:
        """Triton's longest paths have more than 200 characters below it, and Windows allows 259."""
        monkeypatch.setenv("LOCALAPPDATA", r"C:\Users\someone\AppData\Local")
        deep = Path(r"C:\Users\someone\Documents\ComfyUI_windows_portable\ComfyUI\user\__velocity\compile")
        assert len(str(inductor_folder(deep, "win32"))) < 50
        monkeypatch.delenv("LOCALAPPDATA")
        assert deep not in inductor_folder(deep, "win32").parents


def test_the_key_names_what_compiled_code_depends_on() -> None:
    import comfy.sd

    from dev.server import DEMO_PACK, TINY_MODEL

    def key(dtype: torch.dtype) -> dict[str, str]:
        return artifact_key(comfy.sd.load_diffusion_model(str(DEMO_PACK / TINY_MODEL), model_options={"dtype": dtype}))

    whole, half = key(torch.float32), key(torch.bfloat16)
    assert whole == key(torch.float32)
    assert whole != half
    assert whole["model"] == "Flux"
    assert whole["torch"] == torch.__version__
    assert whole["kitchen"]
    assert whole["capability"] == torch.backends.cpu.get_cpu_capability()
    assert all(isinstance(value, str) for value in whole.values())


def test_the_key_names_the_layouts_of_quantised_weights() -> None:
    """Both have the nominal type of the weights that they stand for."""
    import comfy.quant_ops as quant_ops

    weight = torch.ones(16, 16, dtype=torch.bfloat16)
    quantised = quant_ops.QuantizedTensor.from_float(weight, "TensorCoreFP8E4M3Layout")
    keys = []
    for tensor in (weight, quantised):
        module = torch.nn.Module()
        module.weight = torch.nn.Parameter(tensor, requires_grad=False)
        base = SimpleNamespace(diffusion_model=module, manual_cast_dtype=None)
        keys.append(artifact_key(SimpleNamespace(model=base, load_device=torch.device("cpu")))["weights"])
    assert keys == ["torch.bfloat16", "torch.bfloat16 in TensorCoreFP8E4M3Layout"]
