"""Hyperparameters of a training run, and its learning-rate schedule."""

import math
from dataclasses import dataclass
from typing import Any, Self

from medunifier.runtime.errors import InputError
from medunifier.runtime.fields import matching_fields


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training run. Names are those of params.yaml where both have them.

    Attributes:
        steps: optimizer steps.
        batch_size: items per optimizer step, over all processes and micro-batches.
        learning_rate: peak.
        seed: of the data order, dropout and everything random in a step.
        accumulate: micro-batches per optimizer step.
        precision: `fp32`, `bf16` or `fp16` (autocast; weights stay float32).
        warmup_fraction: share of the steps with a rising learning rate.
        warmup_start: learning rate at step 0.
        final_learning_rate: learning rate at the last step; None: the schedule reaches 0 one step after the last, so
            that the last step still trains.
        optimizer: `adamw`, or `muon` for most linear maps and convolutions (see `medunifier.training.muon`).
        muon_rate: learning rate of what Muon moves, in those of the rest.
        betas: of AdamW.
        weight_decay: on matrices alone.
        decay_all: weight decay on biases, norms and embeddings too.
        clip_norm: largest gradient norm; None: no clipping.
        validate_every: steps between validations.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: longest time between checkpoints.
        keep: weights that the model ends with: `last`, or `best` by `monitor`; with `patience` always the best.
        patience: validations without a lower `monitor` before training ends; None: no early stopping.
        monitor: validation value for early stopping; lower is better.
        strict: refuse operations without a deterministic algorithm; False: warn only, as foreign networks may need.
    """

    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    accumulate: int = 1
    precision: str = "fp32"
    warmup_fraction: float = 0.05
    warmup_start: float = 0.0
    final_learning_rate: float | None = None
    optimizer: str = "adamw"
    muon_rate: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    decay_all: bool = False
    clip_norm: float | None = 1.0
    validate_every: int = 1000
    checkpoint_every: int = 1000
    checkpoint_minutes: float = 10.0
    keep: str = "last"
    patience: int | None = None
    monitor: str = "loss"
    strict: bool = True

    @classmethod
    def from_params(cls, *sections: object, **values: Any) -> Self:
        """Build a recipe from sections of params.yaml; `values` are fields that they lack, or that differ."""
        return cls(**(matching_fields(cls, *sections) | values))

    @property
    def keeps_best(self) -> bool:
        """Whether the model ends with its best weights."""
        return self.patience is not None or self.keep == "best"

    def check_batch_size(self, items: int, processes: int) -> None:
        """Raise InputError unless a batch fits the data set, the processes and the micro-batches."""
        if items < self.batch_size:
            raise InputError(
                f"{items} training items are fewer than batch_size = {self.batch_size}; lower batch_size"
            )
        if self.batch_size % (processes * self.accumulate):
            raise InputError(
                f"batch_size = {self.batch_size} must be a multiple of processes x accumulate = "
                f"{processes} x {self.accumulate}"
            )

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of step 0 .. steps - 1: linear warm-up to the peak, then half a cosine."""
        warmup = math.ceil(self.warmup_fraction * self.steps)
        if step < warmup:
            return self.warmup_start + (self.learning_rate - self.warmup_start) * step / warmup
        last, end = (
            (self.steps, 0.0)
            if self.final_learning_rate is None
            else (self.steps - 1, self.final_learning_rate)
        )
        done = (step - warmup) / max(last - warmup, 1)
        return end + (self.learning_rate - end) * (1 + math.cos(math.pi * done)) / 2
