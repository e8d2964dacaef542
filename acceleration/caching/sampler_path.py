"""Does the sampler go where the denoiser's answer leads? Most do; ancestral ones and those with CFG++ do not."""

from dataclasses import dataclass

import torch

from .forecast import norms

SWERVE = 1.5  # further than this from the way (relative to its length) is another way; a mask moves less, noise more


@dataclass
class SamplerPath:
    """The sampler's last call and the present one, in flow coordinates (`forecast.FlowFrame`), latents (B, ...).

    `parts` are the sizes of the latent's parts (`forecast.norms`): each of them has a way.
    """

    parts: tuple[int, ...] = ()
    here: torch.Tensor | None = None
    now: float = 0.0
    latent: torch.Tensor | None = None
    time: float = 0.0
    velocity: torch.Tensor | None = None
    follows: bool = True

    def leave(self, velocity: torch.Tensor) -> None:
        """Note the answer to the present call (guided, B, ...)."""
        # A copy: samplers may update their latent in place.
        self.latent, self.time, self.velocity = self.here.clone(), self.now, velocity

    def followed(self) -> bool:
        """Return whether the present latent lies on the way that the last answer led; True until that is known.

        A second call at the same time (as Heun's method makes) tells nothing.
        """
        if self.latent is not None and self.now != self.time and self.here.shape == self.latent.shape:
            way = self.velocity * (self.now - self.time)
            off, length = (norms(tensor, self.parts) for tensor in (self.here - self.latent - way, way))
            self.follows = bool((off <= SWERVE * length).all())  # False for NaN
        return self.follows
