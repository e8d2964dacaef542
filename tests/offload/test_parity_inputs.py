"""What a sampler may be given and be made of, here and on an endpoint of the same machine: the same bits."""

import pytest
import torch
from branches import GREEN, RED, Branches, Link, check_parity

from dev.endpoint import Endpoint
from dev.server import ComfyServer


def painted(branches: Branches) -> Link:
    """Add a finished latent to start from."""
    return branches.ksampler(branches.model(), branches.text(), branches.text(), branches.empty(), seed=1)


def test_latents(client: ComfyServer, endpoint: Endpoint) -> None:
    def build(branches: Branches) -> None:
        model, text, other = branches.model(), branches.text(), branches.text(GREEN)
        finished = painted(branches)

        def paint(name: str, latent: Link, **widgets: object) -> None:
            sampled = branches.offload(branches.ksampler(model, text, other, latent, **widgets))
            branches.save(name, sampled)
            # A second sampler behind it sees what else the latent holds: its mask and its places in the batch.
            again = branches.ksampler(model, other, text, sampled, seed=8, steps=2, denoise=0.6)
            branches.save(f"{name}, sampled again", again)

        masked = branches.add("SetLatentNoiseMask", samples=finished, mask=branches.mask())
        paint("partial denoise", finished, denoise=0.5)
        paint("noise mask", masked, denoise=0.7)
        paint("noise mask, ddim fills with noise", masked, sampler_name="ddim", cfg=7.0)
        paint("batch", branches.empty(batch=3))
        some = branches.add("LatentFromBatch", samples=branches.empty(batch=4), batch_index=2, length=2)
        paint("part of a batch", some)
        paint("wide", branches.empty(width=96), cfg=7.0)
        paint("no denoise", finished, denoise=0.0)

    latents = check_parity(client, endpoint, build)
    assert latents["batch"].shape[0] == 3 and latents["part of a batch"].shape[0] == 2
    assert not torch.equal(latents["part of a batch"][0], latents["batch"][0])


def test_models(client: ComfyServer, endpoint: Endpoint) -> None:
    def build(branches: Branches) -> None:
        model, text, other, latent = branches.model(), branches.text(), branches.text(GREEN), branches.empty()
        models = {
            "plain": model,
            "lora": branches.lora(model),
            "weak lora": branches.lora(model, 0.3),
            "two loras": branches.lora(branches.lora(model), -0.5),
            "first block cache": branches.add("VelocityFirstBlockCache", model=model, preset="draft"),
            "forecast": branches.add("VelocityForecast", model=branches.lora(model), preset="draft"),
            "shift": branches.add(
                "ModelSamplingFlux", model=model, max_shift=1.15, base_shift=0.5, width=512, height=512
            ),
            "rescaled": branches.add("RescaleCFG", model=model, multiplier=0.7),
        }
        for name, patched in models.items():
            cfg = 4.0 if name == "rescaled" else 1.0
            sampled = branches.ksampler(patched, text, other, latent, steps=12, cfg=cfg)
            branches.save(name, branches.offload(sampled))

    latents = check_parity(client, endpoint, build)
    assert all(not torch.equal(latent, latents["plain"]) for name, latent in latents.items() if name != "plain")


def test_ksampler_advanced(client: ComfyServer, endpoint: Endpoint) -> None:
    def build(branches: Branches) -> None:
        model, text, other = branches.model(), branches.text(), branches.text(GREEN)

        def advanced(latent: Link, start: int, end: int, add_noise: str, leftover: str) -> Link:
            sampled = branches.add(
                "KSamplerAdvanced",
                model=model,
                positive=text,
                negative=other,
                latent_image=latent,
                add_noise=add_noise,
                noise_seed=3,
                steps=6,
                cfg=2.0,
                sampler_name="dpmpp_2m",
                scheduler="simple",
                start_at_step=start,
                end_at_step=end,
                return_with_leftover_noise=leftover,
            )
            return branches.offload(sampled)

        whole = advanced(branches.empty(), 0, 10000, "enable", "disable")
        first = advanced(branches.empty(), 0, 3, "enable", "enable")
        second = advanced(first, 3, 10000, "disable", "disable")
        late = advanced(whole, 2, 5, "enable", "enable")
        for name, latent in {"whole": whole, "first": first, "second": second, "late": late}.items():
            branches.save(name, latent)

    check_parity(client, endpoint, build)


def test_custom_samplers(client: ComfyServer, endpoint: Endpoint) -> None:
    def build(branches: Branches) -> None:
        model, text, other, latent = branches.model(), branches.text(), branches.text(GREEN), branches.empty()
        sigmas = branches.add("BasicScheduler", model=model, scheduler="simple", steps=4, denoise=1.0)
        by_hand = branches.add("ManualSigmas", sigmas="1.0, 0.7, 0.3, 0.0")
        noise = branches.add("RandomNoise", noise_seed=5)
        euler = branches.add("KSamplerSelect", sampler_name="euler")
        stochastic = branches.add("SamplerEulerAncestral", eta=0.8, s_noise=1.0)

        def custom(name: str, guider: Link, sampler: Link, steps: Link, noise: Link = noise, start: Link = latent):
            links = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": steps, "latent_image": start}
            sampled = branches.add("SamplerCustomAdvanced", **links)
            for output, what in enumerate(("output", "denoised")):
                branches.save(f"{name} {what}", branches.offload([sampled[0], output]))

        basic = branches.add("BasicGuider", model=model, conditioning=text)
        guided = branches.add("CFGGuider", model=model, positive=text, negative=other, cfg=4.0)
        both = {"cond1": text, "cond2": other, "negative": other, "cfg_conds": 3.0, "cfg_cond2_negative": 2.0}
        dual = branches.add("DualCFGGuider", model=model, style="nested", **both)
        high = branches.add("SplitSigmas", sigmas=sigmas, step=2)
        custom("basic", basic, euler, sigmas)
        custom("cfg", guided, stochastic, sigmas)
        custom("dual", dual, euler, by_hand)
        custom("high sigmas", basic, euler, high)
        custom("low sigmas, no noise", basic, euler, [high[0], 1], branches.add("DisableNoise"), painted(branches))
        sampled = branches.add(
            "SamplerCustom",
            model=model,
            add_noise=True,
            noise_seed=6,
            cfg=3.0,
            positive=text,
            negative=other,
            sampler=euler,
            sigmas=sigmas,
            latent_image=latent,
        )
        for output, what in enumerate(("output", "denoised")):
            branches.save(f"SamplerCustom {what}", branches.offload([sampled[0], output]))

    latents = check_parity(client, endpoint, build)
    assert not torch.equal(latents["high sigmas output"], latents["high sigmas denoised"])


def test_conditioning(client: ComfyServer, endpoint: Endpoint) -> None:
    def build(branches: Branches) -> None:
        model, red, green, latent = branches.model(), branches.text(), branches.text(GREEN), branches.empty(width=96)
        area = branches.add("ConditioningSetArea", conditioning=green, width=64, height=64, x=32, y=0, strength=0.8)
        percent = branches.add(
            "ConditioningSetAreaPercentage", conditioning=green, width=0.5, height=0.5, x=0.25, y=0.25, strength=1.0
        )
        masked = branches.add(
            "ConditioningSetMask", conditioning=green, mask=branches.mask(), strength=0.9, set_cond_area="default"
        )
        early = branches.add("ConditioningSetTimestepRange", conditioning=red, start=0.0, end=0.4)
        late = branches.add("ConditioningSetTimestepRange", conditioning=green, start=0.4, end=1.0)
        positives = {
            "area": branches.add("ConditioningCombine", conditioning_1=red, conditioning_2=area),
            "area in percent": branches.add("ConditioningCombine", conditioning_1=red, conditioning_2=percent),
            "mask": branches.add("ConditioningCombine", conditioning_1=red, conditioning_2=masked),
            "timestep range": branches.add("ConditioningCombine", conditioning_1=early, conditioning_2=late),
            "concatenated": branches.add("ConditioningConcat", conditioning_to=red, conditioning_from=green),
            "average": branches.add(
                "ConditioningAverage", conditioning_to=red, conditioning_from=green, conditioning_to_strength=0.4
            ),
            "guidance": branches.add("FluxGuidance", conditioning=red, guidance=2.0),
            "reference": branches.add("ReferenceLatent", conditioning=red, latent=painted(branches)),
            "plain": red,
        }
        for name, positive in positives.items():
            sampled = branches.ksampler(model, positive, green, latent, cfg=3.0)
            branches.save(name, branches.offload(sampled))
        zero = branches.add("ConditioningZeroOut", conditioning=red)
        branches.save("zero", branches.offload(branches.ksampler(model, red, zero, latent, cfg=7.0)))

    latents = check_parity(client, endpoint, build)
    alike = [name for name in latents if name != "plain" and torch.equal(latents[name], latents["plain"])]
    assert alike == ["guidance"]  # the tiny model takes no guidance


def test_live_objects_go_as_graph(client: ComfyServer, endpoint: Endpoint) -> None:
    """Hooks, here a LoRA for half of the steps, cannot be sent as data: the nodes that make them are."""

    def build(branches: Branches) -> None:
        model, red, green, latent = branches.model(), branches.text(), branches.text(GREEN), branches.empty()
        hook = branches.add("CreateHookLoraModelOnly", lora_name="tiny_flux_lora.safetensors", strength_model=1.0)
        half = branches.add("CreateHookKeyframe", strength_mult=0.0, start_percent=0.5)
        timed = branches.add("SetHookKeyframes", hooks=hook, hook_kf=half)
        for name, hooks in {"hook": hook, "timed hook": timed}.items():
            positive = branches.add(
                "ConditioningSetProperties", cond_NEW=red, strength=1.0, set_cond_area="default", hooks=hooks
            )
            sampled = branches.ksampler(model, positive, green, latent, steps=6, cfg=3.0)
            branches.save(name, branches.offload(sampled))
        branches.save("plain", branches.offload(branches.ksampler(model, red, green, latent, steps=6, cfg=3.0)))

    latents = check_parity(client, endpoint, build)
    assert len({latent.sum().item() for latent in latents.values()}) == 3


@pytest.mark.parametrize("text_encoding", ["local", "remote"])
def test_text_encoding(client: ComfyServer, endpoint: Endpoint, text_encoding: str) -> None:
    def build(branches: Branches) -> None:
        model, latent = branches.model(), branches.empty()
        for name, text in {"red": RED, "green": GREEN}.items():
            sampled = branches.ksampler(model, branches.text(text), branches.text(GREEN), latent, cfg=2.0, seed=11)
            branches.save(name, branches.offload(sampled))

    check_parity(client, endpoint, build, text_encoding=text_encoding)
