"""The denoiser's output as a function of time, and what it will be next.

Along a deterministic sampler's path the velocity of a diffusion model is a smooth function of the noise level, so it
can be extrapolated from the last few calls of the model ("full" calls). Two polynomials of neighbouring order through
the same calls give an error estimate without calling the model, as embedded Runge-Kutta pairs do (Hairer, Norsett,
Wanner, Solving Ordinary Differential Equations I, II.4). When the next full call comes, the polynomial through it tells
what the skipped calls should have said: the difference, times their length, is how far the latent drifted (as in the
corrector of a predictor-corrector method, ibid. III.1).

Shapes: a velocity is (C, B, ...) for C conditionings and B samples, a guided velocity (G * B, ...) for G ways to mix
them, which is one where the guider's is known. Norms are (P, B) for the P parts of a latent (`packed_latent.py`).
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FlowFrame:
    """Coordinates in which every model is a flow: time 0 is the image, 1 is noise.

    A rectified flow (`straight`, ComfyUI's `CONST`) lives there already: x = (1 - t) image + t noise, t = sigma. A
    model with exploding variance (eps and v prediction: x = image + sigma noise) gets there by t = sigma / (1 + sigma)
    and by scaling x with 1 / (1 + sigma). The velocity is d x / d t = noise - image.
    """

    straight: bool

    def time(self, sigma: float) -> float:
        """Return the time in 0..1 that belongs to `sigma`."""
        return sigma if self.straight else sigma / (1.0 + sigma)

    def position(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return the sampler's latent `x` in flow coordinates, same shape."""
        return x if self.straight else x / (1.0 + sigma)

    def velocity(self, x: torch.Tensor, denoised: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return the velocity at latent `x` (B, ...) for the model's denoised output (..., B, ...), sigma > 0."""
        return (self.position(x, sigma) - denoised) / self.time(sigma)

    def denoised(self, x: torch.Tensor, velocity: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return the inverse of `velocity`: the denoised output that stands for this velocity at `x`."""
        return self.position(x, sigma) - velocity * self.time(sigma)


@dataclass
class _Node:
    """One full call: its time, velocity (C, B, ...), guided velocity (G * B, ...) and its norms (P, G * B)."""

    time: float
    velocity: torch.Tensor
    guided: torch.Tensor
    norm: torch.Tensor


class History:
    """The last full calls of one conditioning set, newest last; extrapolates them with polynomials up to `order`.

    `parts` are the sizes of the latent's parts, none where it is one (`norms`).
    """

    def __init__(self, order: int, parts: tuple[int, ...] = ()) -> None:
        self.order = order
        self.parts = parts
        self._nodes: list[_Node] = []

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def ready(self) -> bool:
        """Whether an error can be estimated: two calls at least, and three before order 2 is used."""
        return len(self._nodes) >= max(2, self.order + 1)

    @property
    def times(self) -> list[float]:
        """Times of the calls that are kept, oldest first."""
        return [node.time for node in self._nodes]

    def add(self, time: float, velocity: torch.Tensor, mixtures: list[list[float]]) -> None:
        """Append a full call. A call at a time already seen replaces it, one further back in time starts anew.

        `mixtures` are sets of weights with which the guider may add up the C velocities (classifier-free guidance: s
        and 1 - s). Each counts as a sample of its own, and the worst decides.
        """
        while self._nodes and self._nodes[-1].time <= time:
            back = self._nodes.pop()
            if back.time < time:
                self._nodes.clear()
        guided = torch.cat([weighted_sum(weights, list(velocity)) for weights in mixtures])
        self._nodes.append(_Node(time, velocity, guided, norms(guided, self.parts)))
        del self._nodes[: -(self.order + 2)]

    def clear(self) -> None:
        """Forget everything (and free its memory)."""
        self._nodes.clear()

    def extrapolate(self, time: float) -> torch.Tensor:
        """Return the forecast velocity (C, B, ...) at `time`."""
        return weighted_sum(self._weights(time, self.order), [node.velocity for node in self._nodes])

    def error(self, time: float) -> torch.Tensor:
        """Return the estimated relative error (P, B) of the guided forecast at `time`.

        The geometric mean of what the newest order adds and what the next order would add: the first alone is too
        careful (it is the error of the order below), the second alone is sometimes zero by accident.
        """
        lower = self._difference(time, self.order, self.order - 1) if self.order else None
        upper = self._difference(time, self.order + 1, self.order) if len(self._nodes) >= self.order + 2 else None
        if lower is None or upper is None:
            estimate = lower if upper is None else upper
        else:
            estimate = (lower * upper).sqrt()
        return _relative(estimate, self._nodes[-1].norm)

    def amplification(self, time: float) -> float:
        """Return how much larger the relative error of the guided forecast is than that of the outputs, at least 1.

        Judged by the change since the last full call. Classifier-free guidance amplifies the difference of two nearly
        equal outputs, so small errors in each become large ones; and a small part may change while the whole does not:
        the outputs are taken as a whole, as who asks here probes the model as a whole.
        """
        newest, weights = self._nodes[-1], self._step(time, 1, 0)
        change = weighted_sum(weights, [node.velocity for node in self._nodes])  # (C, B, ...)
        own = _relative(norms(change.flatten(0, 1)), norms(newest.velocity.flatten(0, 1)))
        guided = _relative(self._difference(time, 1, 0), newest.norm)
        return max(1.0, (guided.max() / own.max()).item())

    def drift(self, skipped: list[tuple[float, float]]) -> torch.Tensor:
        """Return by how much (C, B, ...) the skipped calls moved the latent too little, now that a full call followed.

        `skipped` lists (time, signed length of the step in time) of the calls answered by `extrapolate` since the full
        call before the newest. Interpolates linearly between the two, which is of higher order than extrapolating.
        """
        weights = [0.0] * len(self._nodes)
        used = self.times[:-1][-(self.order + 1) :]  # what the forecasts of these calls were made from
        newest, before = self._nodes[-1].time, self._nodes[-2].time
        for time, length in skipped:
            share = (time - before) / (newest - before)
            weights[-1] += length * share
            weights[-2] += length * (1.0 - share)
            for index, weight in enumerate(lagrange(used, time), start=len(self._nodes) - 1 - len(used)):
                weights[index] -= length * weight
        return weighted_sum(weights, [node.velocity for node in self._nodes])

    def _weights(self, time: float, order: int) -> list[float]:
        """Weights of all nodes in the polynomial of `order` through the newest ones, at `time`."""
        used = self.times[-(order + 1) :]
        return [0.0] * (len(self._nodes) - len(used)) + lagrange(used, time)

    def _difference(self, time: float, high: int, low: int) -> torch.Tensor:
        """Norms (P, B) of the difference between the guided forecasts of two orders."""
        return norms(weighted_sum(self._step(time, high, low), [node.guided for node in self._nodes]), self.parts)

    def _step(self, time: float, high: int, low: int) -> list[float]:
        """Weights of all nodes in the difference between the polynomials of two orders, at `time`."""
        return [a - b for a, b in zip(self._weights(time, high), self._weights(time, low), strict=True)]


def lagrange(times: list[float], time: float) -> list[float]:
    """Weights of the values at `times` in the polynomial through them, evaluated at `time`."""
    weights = []
    for i, own in enumerate(times):
        weight = 1.0
        for j, other in enumerate(times):
            if i != j:
                weight *= (time - other) / (own - other)
        weights.append(weight)
    return weights


def weighted_sum(weights: list[float], tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return the weighted sum of tensors of one shape, leaving out those with weight 0."""
    pairs = [(weight, tensor) for weight, tensor in zip(weights, tensors, strict=True) if weight]
    if not pairs:
        return torch.zeros_like(tensors[0])
    total = pairs[0][1] * pairs[0][0]
    for weight, tensor in pairs[1:]:
        total.add_(tensor, alpha=weight)
    return total


def norms(tensor: torch.Tensor, parts: tuple[int, ...] = ()) -> torch.Tensor:
    """Root of the sum of squares per part and sample: (B, ...) -> (P, B), where a sample is made of `parts` numbers."""
    flat = tensor.flatten(1)
    return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in flat.split(parts or flat.shape[1], dim=1)])


def _relative(difference: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """Return `difference` over `norm`; no difference is none, also in a part that is zero."""
    return torch.where(difference == 0.0, difference, difference / norm)
