"""Asking the processor: the same answer as inductor's own, without torch in the processes that only load a library."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from velocity_nodes.acceleration.compiling import vector_units
from velocity_nodes.acceleration.compiling.vector_units import SEARCH, TRUST, find_vector_units, vector_options

from dev.host import ROOT

LIGHT = Path(vector_units.__file__).with_name("light_torch")
# What inductor finds in a new process, asked by itself or by us; prints it, and whether the environment is as before.
PROGRAM = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from dev.host import import_comfyui, import_pack
import_comfyui(); import_pack()
import torch
from torch._inductor import config
from torch._inductor.cpu_vec_isa import pick_vec_isa, valid_vec_isa_list
from velocity_nodes.acceleration.compiling.vector_units import TRUST, find_vector_units, vector_options
before = dict(os.environ)
if sys.argv[2] == "ours":
    find_vector_units()
with config.patch(TRUST if sys.argv[2] == "inductor" else {}):
    found = [[str(isa), isa.build_arch_flags()] for isa in valid_vec_isa_list()]
plain = pick_vec_isa()
with config.patch(vector_options()):
    assert pick_vec_isa() is plain
print(json.dumps([found, before == dict(os.environ)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs g++")
def test_the_answer_is_inductors_own(tmp_path: Path) -> None:
    answers = []
    for who in ("inductor", "ours"):
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / who)}
        command = [sys.executable, "-c", PROGRAM, str(ROOT), who]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=250)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    assert answers[0] == answers[1]
    assert answers[1][1]


@pytest.mark.parametrize(("library", "modules"), [("libc.so.6", "False"), ("no-such-library.so", "True")])
@pytest.mark.skipif(sys.platform != "linux", reason="has no libc.so.6")
def test_only_a_library_that_needs_it_gets_the_real_torch(library: str, modules: str) -> None:
    # As inductor asks; the name of the library stands in a comment, as the second one does not load with torch either.
    code = f'import torch\nprint(hasattr(torch, "Tensor"))  # LoadLibrary("{library}")\n'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIGHT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200)
    assert done.stdout.split() == [modules], done.stderr


@pytest.mark.parametrize("chosen", [None, "/somewhere"])
def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> None:
    seen = []

    def fails() -> None:
        seen.append(os.environ[SEARCH].split(os.pathsep))
        raise OSError(28, "No space left on device")  # compiling meets it again

    monkeypatch.delenv(SEARCH, raising=False)
    if chosen:
        monkeypatch.setenv(SEARCH, chosen)
    monkeypatch.setattr("torch._inductor.cpu_vec_isa.valid_vec_isa_list", fails)
    find_vector_units()
    assert seen[0][0] == str(LIGHT)
    assert not chosen or seen[0][1:] == [chosen]
    assert os.environ.get(SEARCH) == chosen


@pytest.mark.parametrize(("said", "width"), [("AVX2", 256), ("AVX512", 512), ("DEFAULT", None)])
def test_the_width_is_an_option_so_that_caches_tell_processors_apart(monkeypatch, said: str, width: int | None) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: said)
    assert vector_options().get("cpp.simdlen") == width
    assert TRUST == {"cpp.vec_isa_ok": True}  # and is left as it is
