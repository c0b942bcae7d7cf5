"""Exact sampling of codes from the priors, one position at a time.

Each image has its own random numbers, made from its own seed, so images of a batch are independent of each other.
The only dependence on the batch size is the rounding of matrix products. Priors in double precision
(`Prior.double`) keep it below 1e-12 of a logit, too little to change a code. In float32 it is about 1e-5, and
occasionally changes one.

Shapes: B images, N positions of a level, K codes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Self

import torch

from medunifier.model.text import Text
from medunifier.runtime.params import Generate
from medunifier.synthesis.incremental import IncrementalPrior, PriorWeights
from medunifier.synthesis.pixelsnail import Prior


@dataclass(frozen=True)
class SamplingSettings:
    """How codes are sampled; see params.yaml, `generate`. PNG metadata hold these names.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest code.
        top_k: number of codes kept, the likeliest; None: all.
        top_p: the likeliest codes are kept whose probabilities sum to at least this; None: all.
        guidance: logits are those without the text plus `guidance` times the difference that the text makes
            (Ho and Salimans 2022); 1: plain conditional sampling.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        """Check types and limits.

        Raises:
            ValueError: if a setting is no number or out of range.
        """
        numbers = (self.temperature, self.guidance, self.top_p or 1.0)
        if not (
            all(isinstance(n, Real) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
            and self.temperature >= 0
            and (self.top_k is None or (type(self.top_k) is int and self.top_k >= 1))
            and (self.top_p is None or 0 < self.top_p <= 1)
        ):
            raise ValueError(
                f"{self}: expected a temperature of at least 0, a number for guidance, top_k of at least 1 and top_p "
                "above 0 and at most 1, or none of these two"
            )

    @classmethod
    def from_params(cls, generate: Generate) -> Self:
        """Return the settings of the section `generate` of params.yaml."""
        return cls(generate.temperature, generate.top_k, generate.top_p, generate.guidance)


DEFAULT_SETTINGS = SamplingSettings()


class Sampler:
    """Samples codes from a pair of priors; keeps their weights in the layout that `IncrementalPrior` needs.

    Raises:
        ValueError: for priors that do not fit together or are in training mode.
    """

    def __init__(self, top_prior: Prior, bottom_prior: Prior):
        for prior, level in ((top_prior, "top"), (bottom_prior, "bottom")):
            if prior.config.level != level:
                raise ValueError(f"the {level} prior is one of level {prior.config.level}")
            if prior.training:
                raise ValueError(f"the {level} prior is in training mode; call eval() first")
        if (top_prior.text_reader is None) != (bottom_prior.text_reader is None):
            raise ValueError(
                "one prior takes a text, the other does not; train both with one prior.condition"
            )
        self.top, self.bottom = PriorWeights(top_prior), PriorWeights(bottom_prior)

    @torch.inference_mode()
    def sample(
        self,
        text: Text | None = None,
        *,
        seeds: Sequence[int],
        settings: SamplingSettings = DEFAULT_SETTINGS,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample the codes of new images.

        Args:
            text: a report for each image, of the same padded length in every batch; None: no text.
            seeds: one for each image. The same seed and text give the same image in a batch of any size, if the
                priors are in double precision.
            settings: how to sample.

        Returns:
            Top codes (B, 64) and bottom codes (B, 256), long.

        Raises:
            ValueError: if texts, seeds and settings do not fit together.
        """
        if text is not None and len(text.states) != len(seeds):
            raise ValueError(f"{len(text.states)} texts for {len(seeds)} seeds")
        if settings.guidance != 1 and text is None:
            raise ValueError("guidance needs a text")
        uniforms = torch.stack([_uniforms(seed, self.top.size + self.bottom.size) for seed in seeds])
        top = _sample_level(self.top, uniforms[:, : self.top.size], None, text, settings)
        return top, _sample_level(self.bottom, uniforms[:, self.top.size :], top, text, settings)


def choose(
    logits: torch.Tensor, uniforms: torch.Tensor, settings: SamplingSettings = DEFAULT_SETTINGS
) -> torch.Tensor:
    """Sample codes by inverting the distribution function.

    Args:
        logits: (B, K).
        uniforms: random numbers (B,) in [0, 1).
        settings: temperature, top_k and top_p, applied in this order.

    Returns:
        Codes (B,), long.
    """
    temperature, top_k, top_p = settings.temperature, settings.top_k, settings.top_p
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.double() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kept = logits.topk(top_k).indices
        logits = torch.full_like(logits, -torch.inf).scatter(-1, kept, logits.gather(-1, kept))
    probabilities = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # the total probability of likelier codes
        excluded = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= top_p)
        probabilities = probabilities.masked_fill(excluded, 0)
    function = probabilities.cumsum(-1)
    target = uniforms[:, None] * function[:, -1:]
    return torch.searchsorted(function, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def _sample_level(
    weights: PriorWeights,
    uniforms: torch.Tensor,
    top: torch.Tensor | None,
    text: Text | None,
    settings: SamplingSettings,
) -> torch.Tensor:
    """Sample codes (B, N) with the random numbers `uniforms` (B, N), on the device of the prior."""
    device = weights.prior.device
    uniforms = uniforms.to(device)
    count, guided = len(uniforms), settings.guidance != 1
    if text is not None:
        text = Text(text.states.to(device, weights.prior.dtype), text.mask.to(device))
        if guided:  # the second half of the batch holds the same images without the text
            text = Text(text.states.repeat(2, 1, 1), torch.cat([text.mask, torch.zeros_like(text.mask)]))
            top = None if top is None else top.repeat(2, 1)
    state = IncrementalPrior(weights, count * (1 + guided), top, text)
    sampled = []
    for i in range(weights.size):
        logits = state.logits()
        if guided:
            plain = logits[count:]
            logits = plain + settings.guidance * (logits[:count] - plain)
        codes = choose(logits, uniforms[:, i], settings)
        state.put(codes.repeat(1 + guided))
        sampled.append(codes)
    return torch.stack(sampled, 1)


def _uniforms(seed: int, number: int) -> torch.Tensor:
    """Return an image's random numbers, the same on every machine and device."""
    return torch.rand(number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
