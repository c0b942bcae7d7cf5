"""What a training run records: points of its curves, the values of single steps, its best weights."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from medunifier.runtime.errors import InputError
from medunifier.training.checkpoints import Checkpoints


@dataclass
class History:
    """Points of all curves so far: one dictionary per line of the curves' CSV."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: int, split: str, values: dict[str, float]) -> None:
        """Add the point of a split after `step` steps."""
        self.rows.append({"step": step, "split": split, **values})

    def first_and_last(self, split: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the first and the last point of a split."""
        rows = [row for row in self.rows if row["split"] == split]
        return rows[0], rows[-1]

    def lowest(self, split: str, name: str) -> dict[str, Any]:
        """Return the first point of a split at which the value `name` is lowest."""
        return min((row for row in self.rows if row["split"] == split), key=lambda row: row[name])


@dataclass
class BestWeights:
    """The weights with the lowest monitored validation value so far, for early stopping."""

    value: float = math.inf
    step: int = 0
    waited: int = 0  # validations since
    model: dict[str, torch.Tensor] = field(default_factory=dict)

    def update(self, value: float, step: int, model: nn.Module) -> None:
        """Take a validation into account: copy the weights if its value is the lowest so far."""
        if value < self.value:
            self.value, self.step, self.waited = value, step, 0
            self.model = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        else:
            self.waited += 1


class DivergedError(InputError):
    """A loss, a validation value or the gradient norm became NaN or infinite."""

    def __init__(self, name: str, value: float, step: int, checkpoints: Checkpoints) -> None:
        saved = checkpoints.paths()
        super().__init__(
            f"{name} is {value} at step {step}. Last good checkpoint: {saved[-1] if saved else 'none yet'}. "
            "Lower the learning rate, set clip_norm, or use precision fp32 or bf16."
        )


class StepValues:
    """Values of the steps since the last point of the curves.

    They stay on the device until `settle`, because reading one would wait for the GPU.

    Attributes:
        pending: values of this process's steps, on its device.
        settled: values of the steps before these: finite, and means over all processes.
    """

    def __init__(self, accelerator: Accelerator, checkpoints: Checkpoints) -> None:
        self.accelerator, self.checkpoints = accelerator, checkpoints
        self.pending: list[dict[str, torch.Tensor]] = []
        self.settled: list[dict[str, float]] = []

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """Add the values of one step of this process."""
        self.pending.append(values)

    def settle(self, step: int) -> None:
        """Average pending values over all processes; `step` is the number of steps so far.

        Raises:
            DivergedError: for the first value that is not finite. With a loss scaler the gradient norm may be
                infinite or NaN: the scaler skips such a step.
        """
        names = list(self.pending[0])
        columns = [
            [torch.as_tensor(values[name], dtype=torch.float32) for name in names] for values in self.pending
        ]
        device = self.accelerator.device
        table = torch.stack([torch.stack([x.detach().to(device) for x in row]) for row in columns])
        means: Any = self.accelerator.reduce(table, "mean")  # (steps, names)
        rows = [dict(zip(names, row, strict=True)) for row in means.tolist()]
        by_cause = sorted(names, key=("loss", "gradient_norm").__contains__)  # a part tells more than the sum
        for number, values in enumerate(rows, start=step - len(rows) + 1):
            for name in by_cause:
                skipped = name == "gradient_norm" and self.accelerator.scaler is not None
                if not math.isfinite(values[name]) and not skipped:
                    raise DivergedError(name, values[name], number, self.checkpoints)
        self.settled += rows
        self.pending = []

    def take_means(self) -> dict[str, float]:
        """Return the means over settled steps and forget these steps.

        A value that is not finite (the gradient norm of a step that the loss scaler skipped) is left out.
        """
        names = self.settled[0]
        columns = {n: [values[n] for values in self.settled if math.isfinite(values[n])] for n in names}
        self.settled = []
        return {name: float(np.mean(column)) for name, column in columns.items() if column}
