"""Saving: what is written loads in a ComfyUI without this pack to the same output, and no half file is ever there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import comfy.hooks
import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_nag import NAGuidance
from safetensors import safe_open
from velocity_nodes.acceleration.compiling.compile import CompileConfig, apply_compile
from velocity_nodes.acceleration.precision.save_quantized import save_quantized
from velocity_nodes.nodes.load_diffusion_model import VelocityLoadDiffusionModel
from velocity_nodes.nodes.save_quantized_model import VelocitySaveQuantizedModel

from .quantized import QUANTIZING, call, error, flux_layout, load, quantized_layers, same_weights
from .sampling import prompt, run_sampler
from .techniques import FIRST_BLOCK

NAME = "diffusion_models/tiny fp8"

# A ComfyUI without this pack: the repository gives only the words of the prompt, through a file.
STOCK = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.sd, comfy.sample, comfy.utils
assert not any("velocity" in name for name in sys.modules)
inputs = torch.load("in.pt")
latent = torch.zeros(1, 16, 16, 16)
noise = comfy.sample.prepare_noise(latent, 2)
out = []
for path in sys.argv[2:]:
    weights, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    # Copies, as in a mapped file tensors begin anywhere, and a CPU rounds differently there.
    weights = {name: weight.clone() for name, weight in weights.items()}
    model = comfy.sd.load_diffusion_model_state_dict(weights, metadata=metadata)
    out.append(comfy.sample.sample(model, noise, 4, 1.0, "euler", "simple", *inputs, latent, seed=2, disable_pbar=True))
torch.save(out, "out.pt")
"""


def in_a_stock_process(paths: list[Path], folder: Path) -> list[torch.Tensor]:
    """Sample four steps with core's own loader and sampler in a process that has never heard of this pack."""
    torch.save([prompt("a large red circle"), prompt("")], folder / "in.pt")
    subprocess.run([sys.executable, "-c", STOCK, os.environ["COMFYUI_PATH"], *paths], check=True, cwd=folder)
    return torch.load(folder / "out.pt")


def here(model: ModelPatcher) -> torch.Tensor:
    return run_sampler(model, prompt("a large red circle"), prompt(""), steps=4)


def lora() -> dict[str, torch.Tensor]:
    generator, name = torch.Generator().manual_seed(1), "diffusion_model.single_blocks.0.linear1"
    down, up = torch.randn(4, 128, generator=generator), torch.randn(896, 4, generator=generator) * 0.1
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}


def with_lora(model: ModelPatcher) -> ModelPatcher:
    return comfy.sd.load_lora_for_models(model, None, lora(), 1.0, 0)[0]


def with_bypass_lora(model: ModelPatcher) -> ModelPatcher:
    return comfy.sd.load_bypass_lora_for_models(model, None, lora(), 1.0, 0)[0]


def test_a_stock_process_paints_the_same(tmp_path: Path) -> None:
    models = {name: load(precision=name) for name in QUANTIZING if name != "fp8 fast"}
    paths = [save_quantized(model, str(tmp_path), name) for name, model in models.items()]
    for model, latent in zip(models.values(), in_a_stock_process(paths, tmp_path), strict=True):
        assert torch.equal(latent, here(model))


def test_the_loader_takes_its_own_file_back(tmp_path: Path) -> None:
    model = load(precision="fp8 fast")
    path = save_quantized(model, str(tmp_path), NAME)
    assert same_weights(load(path, "fp8 fast"), model)
    assert same_weights(load(path, "fp8 scaled"), load(precision="fp8 scaled"))
    assert same_weights(load(path, "as stored"), model)
    assert error(load(path, "fp8 fast"), model) < 0.002  # a CPU rounds differently in a mapped file


def test_a_lora_is_merged(tmp_path: Path) -> None:
    plain, patched = load(), with_lora(load())
    saved = load(save_quantized(patched, str(tmp_path), NAME), "as stored")
    expected, changed = call_merged(patched), call(plain)
    off = (call(saved) - expected).norm()
    assert (changed - expected).norm() > 10 * off  # rounded to fp8 once more, so not bit for bit


@pytest.mark.parametrize("precision", QUANTIZING)
def test_a_bypass_lora_is_refused_by_name(precision: str, tmp_path: Path) -> None:
    """It acts while the model samples, so the file would silently lack it."""
    model = load(precision=precision)
    for patched in (with_bypass_lora(model), apply_compile(with_bypass_lora(model), CompileConfig(backend="eager"))):
        with pytest.raises(ValueError, match="injection bypass_lora.*take Load LoRA"):
            save_quantized(patched, str(tmp_path), NAME)
    assert not list(tmp_path.rglob("*.*"))
    assert save_quantized(model, str(tmp_path), NAME).is_file()


def test_weights_that_only_hooks_and_adapters_have_are_refused(tmp_path: Path) -> None:
    model = load()
    key = "diffusion_model.single_blocks.0.linear1.weight"
    hooked, adapted = model.clone(), model.clone()
    hooked.add_hook_patches(comfy.hooks.WeightHook(), {key: ("diff", (torch.ones(896, 128),))})
    adapted.add_weight_wrapper(key, torch.nn.Identity())
    for patched, name in ((hooked, "LoRA hooks"), (adapted, f"adapter of {key}")):
        with pytest.raises(ValueError, match=name):
            save_quantized(patched, str(tmp_path), NAME)


def test_what_belongs_to_the_workflow_is_named_and_what_makes_it_faster_is_not(tmp_path: Path, caplog) -> None:
    model = FIRST_BLOCK.never(apply_compile(load(), CompileConfig(backend="eager")))
    model = EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).result[0]
    path = save_quantized(model, str(tmp_path), NAME)
    assert "Save Quantized Model" not in caplog.text
    patched = NAGuidance.execute(model, 2.0, 0.5, 1.5).result[0]
    assert same_weights(load(save_quantized(patched, str(tmp_path), "patched"), "as stored"), load(path, "as stored"))
    assert caplog.text.count("the file holds the weights, and not the patch attn1_output_patch") == 1


def call_merged(model: ModelPatcher) -> torch.Tensor:
    comfy.model_management.load_models_gpu([model])
    return call(model)


def test_header_says_what_is_quantised(tmp_path: Path) -> None:
    model = load(precision="fp8 scaled")
    path = save_quantized(model, str(tmp_path), NAME)
    with safe_open(path, framework="pt") as file:
        layers = json.loads(file.metadata()["_quantization_metadata"])["layers"]
        assert len(layers) == len(quantized_layers(model))
        for layer, note in layers.items():
            assert note == {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
            assert file.get_slice(f"{layer}.weight").get_dtype() == "F8_E4M3"
            assert file.get_tensor(f"{layer}.weight_scale").numel() == 1


class TestFiles:
    @pytest.fixture(scope="class")
    def model(self) -> ModelPatcher:
        return load()

    def test_never_overwrites_without_being_told(self, tmp_path: Path, model: ModelPatcher) -> None:
        path = save_quantized(model, str(tmp_path), NAME)
        path.write_bytes(b"mine")
        with pytest.raises(FileExistsError, match="choose another filename, or switch overwrite on"):
            save_quantized(model, str(tmp_path), NAME)
        assert path.read_bytes() == b"mine"
        assert save_quantized(model, str(tmp_path), NAME, overwrite=True).stat().st_size > 4e6

    def test_an_interrupted_save_leaves_what_was_there(self, tmp_path: Path, model: ModelPatcher) -> None:
        path = save_quantized(model, str(tmp_path), NAME)
        before = path.read_bytes()
        comfy.model_management.interrupt_current_processing()
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            save_quantized(model, str(tmp_path), NAME, overwrite=True)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
    def test_a_full_disk(self, tmp_path: Path, model: ModelPatcher) -> None:
        import resource  # not on Windows
        import signal

        path = save_quantized(model, str(tmp_path), NAME)
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, old[1]))
        try:
            with pytest.raises(OSError, match="could not be written.*free space"):
                save_quantized(model, str(tmp_path), "diffusion_models/other")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            signal.signal(signal.SIGXFSZ, handler)
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize(
        "name",
        ["../x", "a/../../x", "a\\..\\..\\x", "/x", "C:/x", "c:x", "", " ", "a//b", "x\0", "x\ny", "a/.", "con?"],
    )
    def test_names_that_lead_out_of_the_folder(self, tmp_path: Path, model: ModelPatcher, name: str) -> None:
        with pytest.raises(ValueError, match="is no name below the output folder"):
            save_quantized(model, str(tmp_path / "output"), name)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("name", "file"),
        [("x", "x.safetensors"), ("a\\b/x.safetensors", "a/b/x.safetensors"), ("v1.5", "v1.5.safetensors")],
    )
    def test_names(self, tmp_path: Path, model: ModelPatcher, name: str, file: str) -> None:
        assert save_quantized(model, str(tmp_path), name) == tmp_path / file
        assert (tmp_path / file).is_file()

    def test_a_model_that_is_not_quantised(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="Flux are not quantised.*ComfyUI's own Save Model"):
            save_quantized(load(precision="as stored"), str(tmp_path), NAME)
        assert not list(tmp_path.iterdir())


class TestNodes:
    """Both nodes, with the folders that ComfyUI would give them."""

    @pytest.fixture
    def folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for kind in ("diffusion_models", "checkpoints"):
            (tmp_path / kind).mkdir()
            entry = ([str(tmp_path / kind)], folder_paths.supported_pt_extensions)
            monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, entry)
        monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
        return tmp_path

    def load(self, name: str, precision: str = "fp8 scaled", **settings: str) -> ModelPatcher:
        return VelocityLoadDiffusionModel.execute(name, precision, **settings).result[0]

    def test_load_save_and_load(self, folders: Path) -> None:
        flux_layout(folders / "checkpoints", "model.diffusion_model.")
        model = self.load("tiny.safetensors")
        saved = Path(VelocitySaveQuantizedModel.execute(model, NAME).result[0])
        assert saved == folders / "output" / f"{NAME}.safetensors"
        saved.rename(folders / "diffusion_models" / "tiny.safetensors")  # stands before the checkpoint of that name
        assert same_weights(self.load("tiny.safetensors", "as stored"), model)

    def test_lists_each_name_once(self, folders: Path) -> None:
        for kind in ("diffusion_models", "checkpoints"):
            (folders / kind / "a.safetensors").touch()
        (folders / "checkpoints" / "b.ckpt").touch()
        schema = VelocityLoadDiffusionModel.define_schema()
        assert schema.inputs[0].options == ["a.safetensors", "b.ckpt"]

    @pytest.mark.parametrize("name", ["nope.safetensors", "../secret.safetensors", "/etc/passwd", ""])
    def test_names_outside_of_the_folders(self, folders: Path, name: str) -> None:
        (folders / "secret.safetensors").touch()
        with pytest.raises(ValueError, match="there is no model.*choose one from the list"):
            self.load(name)

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"precision": "fp7"}, "there is no precision 'fp7'"),
            ({"keep_high_precision": "*.nope"}, "no layer is named like"),
            ({"keep_high_precision": ""}, "keep_high_precision is empty"),
        ],
    )
    def test_settings_that_mean_nothing(self, folders: Path, settings: dict[str, str], says: str) -> None:
        flux_layout(folders / "diffusion_models")
        with pytest.raises(ValueError, match=says):
            self.load("tiny.safetensors", **settings)

    def test_a_damaged_file(self, folders: Path) -> None:
        path = flux_layout(folders / "diffusion_models")
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match="download it again"):
            self.load("tiny.safetensors")
