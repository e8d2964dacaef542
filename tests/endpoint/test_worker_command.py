"""How workers are started: the command line, the environment, and the pack inside of a ComfyUI that lacks it."""

import sys
from pathlib import Path

import pytest
from velocity_nodes.remote.endpoint.settings import Settings
from velocity_nodes.remote.endpoint.workers.worker_command import gpus, worker_command, worker_environment


@pytest.fixture
def comfyui(tmp_path):
    (tmp_path / "ComfyUI" / "custom_nodes").mkdir(parents=True)
    return tmp_path / "ComfyUI"


def command(comfyui: Path, *arguments: str, gpu: str | None = None) -> list[str]:
    settings = Settings(comfyui, sys.executable, comfyui.parent / "data", comfyui_arguments=arguments)
    return worker_command(settings, 1234, gpu)


def install(folder: Path, name: str, project: str) -> None:
    (folder / "custom_nodes" / name).mkdir(parents=True)
    (folder / "custom_nodes" / name / "pyproject.toml").write_text(f'[project]\nname = "{project}"\n')


def test_it_listens_on_the_loopback_interface_only(comfyui):
    line = command(comfyui)
    assert line[:6] == [sys.executable, "main.py", "--listen", "127.0.0.1", "--port", "1234"]


def test_the_operators_cache_and_device_win(comfyui):
    assert "--cache-lru" in command(comfyui)
    for own in ("--cache-none", "--cache-ram=4", "--cache-classic", "--high-ram"):  # core takes one of them
        assert "--cache-lru" not in command(comfyui, own)
    assert command(comfyui, "--cpu").count("--cpu") == 1
    assert "--cpu" not in command(comfyui, gpu="0")
    for other in ("--directml", "--oneapi-device-selector=level_zero:0"):
        assert "--cpu" not in command(comfyui, other)


def test_without_the_pack_a_shim_loads_this_one(comfyui):
    install(comfyui, "other", "other-pack")
    line = command(comfyui)
    config = Path(line[line.index("--extra-model-paths-config") + 1])
    assert str(config.parent) in config.read_text()
    shim = (config.parent / "velocity_endpoint" / "__init__.py").read_text()
    assert Path(__file__).parents[2].as_posix() in shim
    assert command(comfyui, "--disable-all-custom-nodes")[-2:] == ["--whitelist-custom-nodes", "velocity_endpoint"]


def test_an_installed_pack_is_used(comfyui, tmp_path):
    install(comfyui, "ComfyUI-Velocity", "velocity-nodes")
    assert "--extra-model-paths-config" not in command(comfyui)
    line = command(comfyui, "--disable-all-custom-nodes", "--whitelist-custom-nodes", "a", "b", "--cpu")
    place = line.index("--whitelist-custom-nodes")
    assert set(line[place + 1 : place + 4]) == {"a", "b", "ComfyUI-Velocity"} and line[place + 4] == "--cpu"
    install(tmp_path / "base", "velocity", "velocity-nodes")
    assert "--extra-model-paths-config" not in command(comfyui, "--base-directory", str(tmp_path / "base"))
    (tmp_path / "empty").mkdir()
    assert "--extra-model-paths-config" in command(comfyui, "--base-directory", str(tmp_path / "empty"))


def test_the_environment_holds_no_key(comfyui, monkeypatch):
    monkeypatch.setenv("VELOCITY_API_KEY", "secret")
    monkeypatch.setenv("VELOCITY_ENDPOINT", "http://elsewhere")
    settings = Settings(comfyui, sys.executable, comfyui.parent / "data")
    environment = worker_environment(settings, "3")
    assert not any("secret" in value or "elsewhere" in value for value in environment.values())
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment["VELOCITY_WORKER_FOLDER"] == str((comfyui.parent / "data").resolve())


def test_gpus_that_the_operator_made_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5a")
    assert gpus() == ["2", "GPU-5a"]
