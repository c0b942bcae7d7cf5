"""The one training loop. Every trained stage gives it a model, a way to load rows, a loss and a recipe.

Resuming is exact, because no random state survives a step. The data order is a function of (seed, epoch), dropout
and hard negatives of (seed, step), and sums have a fixed order. A checkpoint needs weights, optimizer state, step
and curves, no more.
"""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from tqdm import tqdm

from medunifier.runtime.errors import InputError
from medunifier.training.batch_order import mix, prefetch, step_rows
from medunifier.training.checkpoints import Checkpoints
from medunifier.training.history import BestWeights, DivergedError, History, StepValues
from medunifier.training.interruption import Control, StopSignal
from medunifier.training.optimizer import build_optimizer, deterministic_algorithms
from medunifier.training.recipe import Recipe
from medunifier.training.throughput import Throughput, flop_counter

LOG_EVERY = 10  # steps between points of a curve; each is the mean over the steps since the last
Batch = dict[str, Any]  # tensors by name, and what `Join` adds
Loss = Callable[[nn.Module, Batch, torch.Generator], tuple[torch.Tensor, dict[str, torch.Tensor]]]
Join = Callable[[list[Batch], Callable[[int], torch.Generator]], list[Batch]]


class Tracker(Protocol):
    """What the loop needs of a stage's run (see `medunifier.tracking.Run`)."""

    def curve(self, step: int, values: dict[str, float]) -> None:
        """Record points of curves."""

    def log(self, text: str) -> None:
        """Report progress."""


class Due(NamedTuple):
    """What follows an optimizer step; the same on all processes."""

    point: bool  # of the curves
    validation: bool
    checkpoint: bool
    signal: int  # that came to any process; 0: none


class Trainer:
    """Train a model in place: `Trainer(model, recipe, ...).run()`.

    Started on several processes (`accelerate launch`, `torchrun`, Slurm), they share every batch, and every process
    must build and run a trainer. Curves, checkpoints and messages come from the first.

    Args:
        model: called by `loss`. Its method `constrain`, if it has one, is called after each optimizer step.
        recipe: hyperparameters.
        items: size of the training set.
        load: row numbers (k,) -> batch on the CPU. Called in a background thread, one batch ahead.
        loss: (model, batch, generator) -> loss to minimize, and values to log. The generator is in the same state on
            all processes.
        validate: model -> values. Called before the first step, every `validate_every` steps and after the last, on
            every process; returns the same on each.
        tracker: takes curves and messages.
        checkpoints: what to resume from, and where to leave checkpoints.
        join: (micro-batches on the device, seed) -> the micro-batches, with what the loss of one needs to know of the
            others. Called before each step that has several; `seed(number)` returns a micro-batch's generator and puts
            dropout in the state that it is trained with. None: micro-batches know nothing of each other.
        groups: the optimizer's groups instead of `parameter_groups`; `rate_scale` multiplies the learning rate.
        blocks: see `medunifier.training.batch_order.permutation`.

    Raises:
        InputError: fewer items than a batch; a batch that does not divide over processes and micro-batches; fp16
            without a GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        items: int,
        load: Callable[[np.ndarray], Batch],
        loss: Loss,
        validate: Callable[[Any], dict[str, float]],
        tracker: Tracker,
        checkpoints: Checkpoints,
        join: Join | None = None,
        groups: list[dict[str, Any]] | None = None,
        blocks: Sequence[np.ndarray] | None = None,
    ) -> None:
        if recipe.precision == "fp16" and not torch.cuda.is_available():
            raise InputError("precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
        self.model, self.recipe, self.items, self.blocks = model, recipe, items, blocks
        self.load, self.loss, self.validate, self.join = load, loss, validate, join
        self.tracker, self.checkpoints = tracker, checkpoints
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),  # without it, processes on CPUs do not find one another
            mixed_precision="no" if recipe.precision == "fp32" else recipe.precision,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        recipe.check_batch_size(items, self.accelerator.num_processes)
        self.optimizer: torch.optim.Optimizer = build_optimizer(model, recipe, groups)
        self.rate_scales = [group.get("rate_scale", 1.0) for group in self.optimizer.param_groups]
        self.control = Control(self.accelerator)
        self.stop = StopSignal()
        self.step = 0  # optimizer steps done
        self.learning_rate = 0.0
        self.history, self.best = History(), BestWeights()
        self.values = StepValues(self.accelerator, checkpoints)

    def run(self) -> History:
        """Train to the end and return the curves. With `recipe.keeps_best` the model ends with its best weights.

        Raises:
            InputError: processes that do not see the same checkpoints.
            DivergedError: a loss, a validation value or, without a loss scaler, a gradient norm that is not finite.
                It names the step, the value and the last checkpoint, which is from before.
            SystemExit: after SIGTERM, Ctrl-C or SIGUSR1, with a checkpoint written first.
        """
        self.resume()
        if self.step == 0:
            self.run_validation()
        self.throughput = Throughput(
            self.accelerator.device, self.recipe.batch_size, self.accelerator.num_processes
        )
        self.last_save = time.monotonic()
        batches = self.batches()
        with self.stop, self.progress_bar() as bar, deterministic_algorithms(self.recipe.strict):
            while self.step < self.recipe.steps and not self.patience_is_over():
                self.set_learning_rate()
                values = self.forward_and_backward(batches)
                self.update_weights(values)
                bar.update()
                due = self.what_is_due()
                self.record(due, bar)
                if due.validation:
                    self.run_validation()
                self.save_and_stop(due)
                self.throughput.go_on(reset=due.point)
        return self.finish()

    def resume(self) -> None:
        """Load the newest checkpoint if there is one, then spread model and optimizer over the processes."""
        with self.accelerator.main_process_first():  # it renames broken files before the others look
            state = self.checkpoints.load()
        newest = state["step"] if state else 0
        self.control.check_same("the step of the newest checkpoint", newest, self.checkpoints.folder)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.history.rows = state["step"], state["history"]
            self.best, self.values.settled = BestWeights(**state["best"]), state["settled"]
            self.tracker.log(f"resumes from the checkpoint after step {self.step}")
        # the model itself, or DDP around it, which averages gradients over the processes
        # (placed on its device by request: to find out whether to, Accelerate imports distributed tensors for two seconds)
        self.wrapped, self.optimizer = self.accelerator.prepare(
            self.model, self.optimizer, device_placement=[True, True]
        )
        # Accelerate has put a `forward` under autocast before the model's own. The loop has an autocast of its own;
        # validation, and whatever follows the training, run in the precision of the weights.
        vars(self.model).pop("forward", None)
        vars(self.model).pop("_original_forward", None)
        if state is not None and self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.model.train()

    def batches(self) -> Iterator[Batch]:
        """Return the micro-batches of this process from the present step on, each loaded one ahead."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        rows = step_rows(self.items, self.recipe, self.step, process, processes, self.blocks)
        return prefetch(self.load, rows)

    def progress_bar(self) -> tqdm:
        """Return the progress bar, shown by the first process alone."""
        return tqdm(
            total=self.recipe.steps,
            initial=self.step,
            desc="training",
            unit="step",
            mininterval=5,
            disable=not self.accelerator.is_main_process,
        )

    def patience_is_over(self) -> bool:
        """Return whether early stopping ends the training here."""
        patience = self.recipe.patience
        if patience is None or not self.control.largest(self.best.waited >= patience)[0]:
            return False
        self.tracker.log(
            f"no better {self.recipe.monitor} since step {self.best.step}: training ends at step {self.step}"
        )
        return True

    def set_learning_rate(self) -> None:
        """Set the learning rate of the next step in all parameter groups."""
        self.learning_rate = self.recipe.learning_rate_at(self.step)
        for group, scale in zip(self.optimizer.param_groups, self.rate_scales, strict=True):
            group["lr"] = self.learning_rate * scale

    def forward_and_backward(self, batches: Iterator[Batch]) -> dict[str, torch.Tensor]:
        """Sum the gradients of one step's micro-batches; return their mean values, scalars on the device."""
        recipe, accelerator = self.recipe, self.accelerator
        values: dict[str, Any] = {}
        for micro, batch in enumerate(self.micro_batches(batches)):
            shared = self.seed(micro)
            counter = None if self.throughput.flops_per_item else flop_counter()
            # processes exchange gradients with the last micro-batch only
            last = micro == recipe.accumulate - 1
            with counter or nullcontext(), nullcontext() if last else accelerator.no_sync(self.wrapped):
                with accelerator.autocast():
                    total, parts = self.loss(self.wrapped, batch, shared)
                accelerator.backward(total / recipe.accumulate)
            if counter is not None:
                pieces = accelerator.num_processes * recipe.accumulate
                self.throughput.flops_per_item = counter.get_total_flops() * pieces / recipe.batch_size
            for name, value in ({"loss": total.detach()} | parts).items():
                values[name] = values.get(name, 0) + value / recipe.accumulate
        return values

    def micro_batches(self, batches: Iterator[Batch]) -> Iterable[Batch]:
        """Return the micro-batches of a step on the device: one after the other or, where they are joined, all."""
        device, count = self.accelerator.device, self.recipe.accumulate
        found = (
            {name: value.to(device, non_blocking=True) for name, value in batch.items()}
            for batch in islice(batches, count)
        )
        if self.join is None or count == 1:
            return found
        with self.accelerator.autocast():
            return self.join(list(found), self.seed)

    def seed(self, micro: int) -> torch.Generator:
        """Seed dropout for a micro-batch of this step; return the generator of its other random choices.

        Dropout differs between processes. What concerns the global batch is the same on all.
        """
        seed, step, process = self.recipe.seed, self.step, self.accelerator.process_index
        torch.manual_seed(mix(seed, step, micro, process + 1))
        return torch.Generator().manual_seed(mix(seed, step, micro, 0))

    def update_weights(self, values: dict[str, torch.Tensor]) -> None:
        """Clip the gradients and take one optimizer step; `values` of the step get the gradient norm."""
        # PyTorch's own clipping: Accelerate's imports distributed tensors first, for two seconds
        self.accelerator.unscale_gradients()
        if self.recipe.clip_norm is None:
            # Clipping to infinity would turn gradients into NaN where the norm is beyond float32.
            gradients = [p.grad for p in self.wrapped.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
        else:
            norm = nn.utils.clip_grad_norm_(self.wrapped.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        constrain = getattr(self.model, "constrain", None)
        if constrain is not None:
            constrain()
        self.values.add(values | {"gradient_norm": torch.as_tensor(norm)})
        self.throughput.step()
        self.step += 1

    def what_is_due(self) -> Due:
        """Return what follows the step just done, agreed on by all processes."""
        recipe, step = self.recipe, self.step
        late = time.monotonic() - self.last_save > 60 * recipe.checkpoint_minutes
        caught, overdue = self.control.largest(self.stop.caught or 0, late)
        end = step == recipe.steps
        validation = step % recipe.validate_every == 0 or end
        checkpoint = step % recipe.checkpoint_every == 0 or end or bool(caught or overdue)
        return Due(step % LOG_EVERY == 0 or validation, validation, checkpoint, caught)

    def record(self, due: Due, bar: tqdm) -> None:
        """Add a point to the training curves where one is due.

        Raises DivergedError before weights are saved that came of a loss or a gradient that is not finite.
        """
        if due.point or due.checkpoint:
            self.values.settle(self.step)
        self.throughput.pause()  # only now: a GPU lags behind until its values are read
        if due.point:
            means = self.values.take_means()
            means["learning_rate"] = self.learning_rate
            self.history.add(self.step, "train", means)
            point = means | self.throughput.measures()
            self.tracker.curve(self.step, {f"train/{name}": value for name, value in point.items()})
            bar.set_postfix(loss=f"{means['loss']:.3f}")

    def run_validation(self) -> None:
        """Validate in evaluation mode, record the values, and keep the weights if they are the best so far."""
        self.model.eval()
        values = self.validate(self.model)
        self.model.train()
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(f"validation {name}", value, self.step, self.checkpoints)
        self.history.add(self.step, "validate", values)
        if self.recipe.keeps_best:
            self.best.update(values[self.recipe.monitor], self.step, self.model)
        self.tracker.curve(self.step, {f"validate/{name}": value for name, value in values.items()})
        listed = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.tracker.log(f"step {self.step} of {self.recipe.steps}, validation: {listed}")

    def save_and_stop(self, due: Due) -> None:
        """Save a checkpoint where one is due, and end the process after a signal."""
        caught = due.signal
        if due.validation:
            (caught,) = self.control.largest(self.stop.caught or 0)  # it may have come during validation
        if due.checkpoint or caught:
            self.save()
        if caught and self.step < self.recipe.steps:
            name = signal.Signals(caught).name
            self.tracker.log(f"stopped by {name} after step {self.step}; the same command resumes from there")
            raise SystemExit(128 + caught)

    def save(self) -> None:
        """Write a checkpoint; all processes wait until it is there."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            self.checkpoints.save(
                self.step,
                {
                    "step": self.step,
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": {} if scaler is None else scaler.state_dict(),
                    "history": self.history.rows,
                    "settled": self.values.settled,
                    "best": vars(self.best),
                },
            )
        self.accelerator.wait_for_everyone()
        self.last_save = time.monotonic()

    def finish(self) -> History:
        """Load the best weights if training watched for them; return the curves."""
        if self.recipe.keeps_best:
            self.model.load_state_dict(self.best.model)
        return self.history
