"""Which model files this machine has, and what is wrong with those that it can't use."""

from pathlib import Path

import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from velocity_nodes.remote.client.local_models import broken_models, find_models


@pytest.fixture
def loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors", ".ckpt"}))
    return tmp_path


def test_whole_empty_and_cut_off(loras: Path):
    save_file({"a": torch.ones(1000)}, loras / "whole.safetensors")
    whole = (loras / "whole.safetensors").read_bytes()
    contents = {"empty": b"", "header": whole[:20], "tensor": whole[:-1], "page": b"<html>404</html>" * 100}
    for name, content in contents.items():
        (loras / f"{name}.safetensors").write_bytes(content)
    (loras / "old.ckpt").write_bytes(b"anything")
    names = [f"{name}.safetensors" for name in ("whole", *contents)] + ["old.ckpt"]
    assert sorted(find_models(names)) == ["old.ckpt", "whole.safetensors"]
    broken = broken_models(names)
    assert list(broken) == [f"{name}.safetensors" for name in contents]
    assert broken.pop("empty.safetensors") == "is an empty file on this machine"
    assert all(problem.startswith("is cut off or no safetensors file") for problem in broken.values())


def test_words_that_end_like_a_model_are_none(loras: Path):
    """A prompt may: what has no file is ComfyUI's to complain about."""
    assert broken_models(["a photo of my bin.bin", "nowhere.safetensors"]) == {}


def test_a_whole_file_in_another_folder_will_do(loras: Path, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("more")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae", ([str(other)], {".safetensors"}))
    (loras / "both.safetensors").write_bytes(b"")
    save_file({"a": torch.ones(2)}, other / "both.safetensors")
    assert find_models(["both.safetensors"]) == {"both.safetensors": other / "both.safetensors"}
    assert broken_models(["both.safetensors"]) == {}
