"""The samplers of ComfyUI's official workflow templates, as `nox -s templates` has stored them."""

import json
from pathlib import Path

import comfyui_version
import pytest

from dev.comfyui_source import REFERENCE
from dev.node_classes import load_classes
from dev.template_plans import Plan, page, plans

HERE = Path(__file__).parent
GRAPHS = json.loads((HERE / "templates.json").read_text(encoding="utf-8"))

pytestmark = pytest.mark.skipif(
    comfyui_version.__version__ != REFERENCE, reason="the templates are those of the reference ComfyUI"
)


@pytest.fixture(scope="module")
def found() -> list[Plan]:
    return plans(GRAPHS, load_classes())


@pytest.mark.parametrize("text", ["local", "remote"])
def test_at_least_98_of_100_can_be_sent(found: list[Plan], text: str):
    mine = [plan for plan in found if plan.text == text]
    assert len(mine) >= 280
    assert sum(not plan.refused for plan in mine) / len(mine) >= 0.98, {plan.refused for plan in mine}


def test_with_text_here_no_prompt_leaves(found: list[Plan]):
    assert [plan for plan in found if plan.text == "local" and "prompt text" in plan.leaves] == []


def test_chains_are_one_job(found: list[Plan]):
    assert sum(plan.jobs > 1 for plan in found) >= 2 * 38
    assert max(plan.jobs for plan in found) >= 3


def test_the_page_is_of_this_code(found: list[Plan]):
    written = (HERE.parent.parent / "docs" / "templates.md").read_text(encoding="utf-8")
    assert page(found) == written, "run python -m nox -s templates -- plan"
