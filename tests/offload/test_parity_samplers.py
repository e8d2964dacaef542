"""Every sampler of KSampler, here and on an endpoint of the same machine: the same bits. And docs/parity.md is true."""

import itertools
import re

import comfy.samplers
import comfyui_version
import pytest
from branches import GREEN, Branches, check_parity
from step_noise import step_noise

from dev.comfyui_source import REFERENCE
from dev.endpoint import Endpoint
from dev.pack_copy import ROOT
from dev.server import ComfyServer

SAMPLERS = (
    "euler",
    "euler_ancestral",
    "heun",
    "dpm_2",
    "lms",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "lcm",
    "ddim",
    "uni_pc",
)
OTHERS = [name for name in comfy.samplers.KSampler.SAMPLERS if name not in SAMPLERS]
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| exact \| (.+) \|$", re.MULTILINE)
ELSEWHERE = {"none": "close", "CPU": "close", "device": "another picture"}
SCHEDULERS = ("simple", "normal", "karras", "beta")


EACH_ONCE = tuple(zip(SAMPLERS, itertools.cycle(SCHEDULERS)))
EVERY_PAIR = pytest.param(
    tuple(itertools.product(SAMPLERS, SCHEDULERS)), marks=pytest.mark.soak("the gate has each of them with one other")
)


@pytest.mark.parametrize("pairs", [EACH_ONCE, EVERY_PAIR], ids=["each once", "every pair"])
@pytest.mark.parametrize("cfg", [1.0, 7.0])
def test_samplers_and_schedulers(client: ComfyServer, endpoint: Endpoint, cfg: float, pairs: tuple) -> None:
    def build(branches: Branches) -> None:
        model, positive, negative = branches.model(), branches.text(), branches.text(GREEN)
        latent = branches.empty()
        for sampler, scheduler in pairs:
            widgets = {"cfg": cfg, "sampler_name": sampler, "scheduler": scheduler}
            sampled = branches.ksampler(model, positive, negative, latent, **widgets)
            branches.save(f"{sampler} {scheduler}", branches.offload(sampled))

    check_parity(client, endpoint, build)


def test_every_other_sampler(client: ComfyServer, endpoint: Endpoint) -> None:
    def build(branches: Branches) -> None:
        model, positive, negative = branches.model(), branches.text(), branches.text(GREEN)
        latent = branches.empty()
        for sampler in OTHERS:
            sampled = branches.ksampler(model, positive, negative, latent, cfg=3.0, steps=4, sampler_name=sampler)
            branches.save(sampler, branches.offload(sampled))

    check_parity(client, endpoint, build)


@pytest.mark.skipif(comfyui_version.__version__ != REFERENCE, reason="the table is about the reference version")
def test_the_table_names_every_sampler_and_where_its_noise_comes_from() -> None:
    rows = ROW.findall((ROOT / "docs" / "parity.md").read_text(encoding="utf-8"))
    assert [name for name, _, _ in rows] == comfy.samplers.KSampler.SAMPLERS
    for name, noise, elsewhere in rows:
        assert noise.lower() == step_noise(name), name
        assert elsewhere == ELSEWHERE[noise], name
