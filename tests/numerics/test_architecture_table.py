"""The table of architectures against ComfyUI's own list of models, read from the source of `comfy.model_base`."""

import ast
import functools
import inspect

import comfy.model_base
import comfyui_version
import pytest
from velocity_nodes.acceleration.blocks.architectures import ARCHITECTURES, EXCEPTIONS, UNETS

from dev.compatibility import compatibility_table

from .tiny_models import BUILDERS, NotInThisComfyUI, load_class

VERSION = tuple(int(part) for part in comfyui_version.__version__.split("."))
REFERENCE = VERSION >= (0, 30, 0)
# What ComfyUI got after the reference.
NEWER = {
    "comfy.ldm.qwen_image21.model.QwenImage21Transformer2DModel",
    "comfy.ldm.wan.model_animate2.WanAnimate2Model",
    "comfy.ldm.sensenova.model.SenseNovaU15",
    "comfy.ldm.trellis2.model.Trellis2",
    "comfy.ldm.prism.model.Prism",
}


ROWS = [path for row in ARCHITECTURES for path in row.classes]
COVERED = {*ROWS, *EXCEPTIONS, *UNETS}


def test_the_readme_table_names_every_row_and_every_exception():
    table = compatibility_table()
    assert all(f"\n| {row.name} |" in table for row in ARCHITECTURES)
    assert all(f"- `{path.rpartition('.')[2]}`: " in table for path in EXCEPTIONS)


def test_every_row_has_a_tiny_model():
    names = {row.name for row in ARCHITECTURES}
    assert {name.split(":")[0] for name in BUILDERS} == names
    assert len(names) == len(ARCHITECTURES) == len({row.model_class for row in ARCHITECTURES})


def core_model_classes() -> set[type]:
    """The classes that `comfy.model_base` can build as `unet_model`, read from its source."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(comfy.model_base))):
        values = []
        if isinstance(node, ast.Call):
            values = [keyword.value for keyword in node.keywords if keyword.arg == "unet_model"]
        elif isinstance(node, ast.FunctionDef):
            defaults = zip(reversed(node.args.args), reversed(node.args.defaults), strict=False)
            values = [default for argument, default in defaults if argument.arg == "unet_model"]
        for value in values:
            path = ast.unparse(value)
            if path != "unet_model":  # handed on by a subclass
                found.add(functools.reduce(getattr, path.split("."), comfy.model_base))
    return found


def class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def test_every_model_of_core_is_in_the_table_or_has_a_reason_not_to_be_by_its_own_class():
    classes = core_model_classes()
    assert len(classes) >= 30
    assert not {class_path(cls) for cls in classes} - COVERED


def test_no_exception_is_also_in_the_table_and_each_has_a_reason():
    assert len(COVERED) == len(ROWS) + len(EXCEPTIONS) + len(UNETS)
    assert all(len(reason) > 10 for reason in EXCEPTIONS.values())


@pytest.mark.skipif(not REFERENCE, reason="an older ComfyUI lacks some models")
def test_every_name_in_the_table_exists():
    for path in COVERED - NEWER:
        assert inspect.isclass(load_class(path)), path


def test_every_class_of_a_row_derives_from_it_and_has_a_tiny_model():
    """So each is tried in `test_architectures.py`, and none is listed that is another architecture."""
    built = {builder.args[0] for builder in BUILDERS.values()}
    for row in ARCHITECTURES:
        assert set(row.classes) <= built
        for path in row.also:
            try:
                assert issubclass(load_class(path), load_class(row.model_class))
            except NotInThisComfyUI:
                assert not REFERENCE, path
