"""Every sampler of KSampler, here and on an endpoint of the same machine: the same bits. And what docs/parity.md says."""

import comfy.samplers
import pytest
from branches import GREEN, Branches, check_parity

from dev.endpoint import Endpoint
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
SCHEDULERS = ("simple", "normal", "karras", "beta")


@pytest.mark.parametrize("cfg", [1.0, 7.0])
def test_samplers_and_schedulers(client: ComfyServer, endpoint: Endpoint, cfg: float) -> None:
    def build(branches: Branches) -> None:
        model, positive, negative = branches.model(), branches.text(), branches.text(GREEN)
        latent = branches.empty()
        for sampler in SAMPLERS:
            for scheduler in SCHEDULERS:
                widgets = {"cfg": cfg, "sampler_name": sampler, "scheduler": scheduler}
                sampled = branches.ksampler(model, positive, negative, latent, **widgets)
                branches.save(f"{sampler} {scheduler}", branches.offload(sampled))

    check_parity(client, endpoint, build)


def test_every_sampler(client: ComfyServer, endpoint: Endpoint) -> None:
    def build(branches: Branches) -> None:
        model, positive, negative = branches.model(), branches.text(), branches.text(GREEN)
        latent = branches.empty()
        for sampler in comfy.samplers.KSampler.SAMPLERS:
            sampled = branches.ksampler(model, positive, negative, latent, cfg=3.0, steps=4, sampler_name=sampler)
            branches.save(sampler, branches.offload(sampled))

    check_parity(client, endpoint, build)
