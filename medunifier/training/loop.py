"""The one training loop: every trained stage hands it a model, a way to load rows and a recipe.

Resume is exact because nothing random survives a step: the order of the data follows from (seed, epoch), and
each step's dropout and negatives from (seed, step), and sums do not depend on how threads meet. A checkpoint needs
weights, optimiser, step and the curves so far, no more.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from tqdm import tqdm

from medunifier.runtime.errors import InputError
from medunifier.training.batch_order import mix, prefetch, step_rows
from medunifier.training.checkpoints import Checkpoints
from medunifier.training.interruption import Control, StopSignal
from medunifier.training.throughput import flop_counter, peak_flops, peak_memory

LOG_EVERY = 10  # steps between points of a curve; each is the mean over the steps since the last
Batch = dict[str, torch.Tensor]


class Tracker(Protocol):
    """What the loop tells its run (see `medunifier.tracking.Run`)."""

    def curve(self, step: int, values: dict[str, float]) -> None: ...
    def log(self, text: str) -> None: ...


@dataclass(frozen=True)
class Recipe:
    """How to train; the names are those of params.yaml."""

    steps: int
    batch_size: int  # items per step over all processes and micro-batches
    learning_rate: float
    seed: int
    accumulate: int = 1
    precision: str = "fp32"
    warmup_fraction: float = 0.05
    warmup_start: float = 0.0
    final_learning_rate: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    decay_all: bool = False  # biases, norms and the like decay, too
    clip_norm: float | None = 1.0
    validate_every: int = 1000
    checkpoint_every: int = 1000
    checkpoint_minutes: float = 10.0
    patience: int | None = None  # validations without a better value before training ends; None: never early
    watch: str = "loss"  # the validation value that early stopping watches; less is better
    strict: bool = True  # False: sums may come in any order on a graphics card, as others' networks may need

    def learning_rate_at(self, step: int) -> float:
        """Rate of step 0 .. steps - 1: linear warm-up to the peak, then a half cosine to the final rate."""
        warmup = math.ceil(self.warmup_fraction * self.steps)
        if step < warmup:
            return self.warmup_start + (self.learning_rate - self.warmup_start) * step / warmup
        done = (step - warmup) / max(self.steps - 1 - warmup, 1)
        height = self.learning_rate - self.final_learning_rate
        return self.final_learning_rate + height * (1 + math.cos(math.pi * done)) / 2


@dataclass
class History:
    """Points of all curves so far: one dictionary per line of the curves' CSV."""

    rows: list[dict[str, float | str]] = field(default_factory=list)

    def add(self, step: int, split: str, values: dict[str, float]) -> None:
        self.rows.append({"step": step, "split": split, **values})

    def first_and_last(self, split: str) -> tuple[dict[str, float | str], dict[str, float | str]]:
        """The first and the last point of a split."""
        rows = [row for row in self.rows if row["split"] == split]
        return rows[0], rows[-1]


@dataclass
class Best:
    """The weights with the lowest watched validation value so far, and how many validations ago that was."""

    value: float = math.inf
    step: int = 0
    waited: int = 0
    model: dict[str, torch.Tensor] = field(default_factory=dict)

    def see(self, value: float, step: int, model: nn.Module) -> None:
        """One more validation."""
        if value < self.value:
            self.value, self.step, self.waited = value, step, 0
            self.model = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        else:
            self.waited += 1


class DivergedError(InputError):
    """A loss, or the gradient, became NaN or infinite."""

    def __init__(self, name: str, value: float, step: int, checkpoints: Checkpoints) -> None:
        saved = checkpoints.paths()
        super().__init__(
            f"{name} is {value} at step {step}. Last good checkpoint: {saved[-1] if saved else 'none yet'}. "
            "Lower the learning rate, set clip_norm, or use precision fp32 or bf16."
        )


def train(
    model: nn.Module,
    recipe: Recipe,
    *,
    items: int,
    load: Callable[[np.ndarray], Batch],
    loss: Callable[[nn.Module, Batch, torch.Generator], tuple[torch.Tensor, dict[str, torch.Tensor]]],
    validate: Callable[[nn.Module], dict[str, float]],
    run: Tracker,
    checkpoints: Checkpoints,
    groups: list[dict[str, Any]] | None = None,
    blocks: Sequence[np.ndarray] | None = None,
) -> History:
    """Trains `model` in place and returns its curves. With `recipe.patience` it ends with its best weights.

    Started on several processes (`accelerate launch`, `torchrun`, Slurm), they share every batch, and every
    process must call this. Curves, checkpoints and words come from the first.

    Args:
        items: size of the training set.
        load: row numbers (k,) -> batch on the CPU; called in a background thread, one batch ahead.
        loss: (model, batch, generator) -> loss to minimise, and values to log. The generator is in the same
            state on all processes.
        validate: called before the first step, every `validate_every` steps and after the last, on every process;
            returns the same on each.
        checkpoints: where to go on from, if it holds any, and where to leave checkpoints.
        groups: AdamW groups instead of `parameter_groups`; `rate_scale` multiplies the recipe's learning rate.
        blocks: see `medunifier.training.batch_order.permutation`.

    Raises:
        InputError: fewer items than a batch; a batch that does not divide over processes and micro-batches;
            fp16 without a graphics card; processes that do not see the same checkpoints.
        DivergedError: a loss, a validation value or, without a loss scaler, a gradient that is not finite; names the
            step, the value and the last checkpoint, which is of before.
        SystemExit: after SIGTERM or SIGUSR1, with a checkpoint written first.
    """
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise InputError("precision fp16 needs a graphics card; use bf16 or fp32 on the CPU")
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # without it, processes on CPUs do not find one another
        mixed_precision={"fp32": "no"}.get(recipe.precision, recipe.precision),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    pieces = accelerator.num_processes * recipe.accumulate
    if items < recipe.batch_size:
        raise InputError(
            f"{items} training items are fewer than batch_size = {recipe.batch_size}; lower batch_size"
        )
    if recipe.batch_size % pieces:
        raise InputError(
            f"batch_size = {recipe.batch_size} must be a multiple of processes x accumulate = "
            f"{accelerator.num_processes} x {recipe.accumulate}"
        )

    plain = model
    optimizer = torch.optim.AdamW(
        groups or parameter_groups(plain, recipe.weight_decay, recipe.decay_all),
        lr=0.0,
        betas=recipe.betas,
        fused=True,  # a tenth of the demo's step is saved
    )
    history, start, best = History(), 0, Best()
    settled: list[dict[str, float]] = []  # values of the steps since the last point, over all processes
    rates = [group.get("rate_scale", 1.0) for group in optimizer.param_groups]
    with accelerator.main_process_first():  # it sets broken files aside before the others look
        state = checkpoints.load()
    control = Control(accelerator)
    control.check_same("the step of the newest checkpoint", state["step"] if state else 0, checkpoints.folder)
    if state is not None:
        plain.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history.rows, start = state["history"], state["step"]
        best, settled = Best(**state.get("best", {})), state["window"]
        run.log(f"goes on from the checkpoint after step {start}")
    model, optimizer = accelerator.prepare(plain, optimizer)
    if state is not None and accelerator.scaler is not None and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])

    def save(step: int) -> None:
        if accelerator.is_main_process:
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
            checkpoints.save(
                step,
                {
                    "step": step,
                    "model": plain.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scaler": scaler,
                    "history": history.rows,
                    "window": settled,
                    "best": vars(best),
                },
            )
        accelerator.wait_for_everyone()

    def measure(step: int) -> None:
        plain.eval()
        values = validate(plain)
        plain.train()
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(f"validation {name}", value, step, checkpoints)
        history.add(step, "validate", values)
        if recipe.patience is not None:
            best.see(values[recipe.watch], step, plain)
        run.curve(step, {f"validate/{name}": value for name, value in values.items()})
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        run.log(f"step {step} of {recipe.steps}, validation: {numbers}")

    plain.train()
    if start == 0:
        measure(0)
    peak, mfu = peak_flops(accelerator.device)
    arithmetic = 0.0  # FLOP per item, counted on the first micro-batch
    window: list[dict[str, torch.Tensor]] = []  # of this process's steps that are not in `settled` yet
    last_save, timed_from, timed_steps = time.monotonic(), time.monotonic(), 0
    stop = StopSignal()
    batches = prefetch(
        load, step_rows(items, recipe, start, accelerator.process_index, accelerator.num_processes, blocks)
    )
    bar = tqdm(
        total=recipe.steps,
        initial=start,
        desc="training",
        unit="step",
        mininterval=5,
        disable=not accelerator.is_main_process,
    )
    with stop, bar, deterministic_algorithms(recipe.strict):
        for step in range(start, recipe.steps):
            if recipe.patience is not None and control.largest(best.waited >= recipe.patience)[0]:
                run.log(f"no better {recipe.watch} since step {best.step}: training ends at step {step}")
                break
            rate = recipe.learning_rate_at(step)
            for group, scale in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            values: dict[str, torch.Tensor] = {}
            for micro in range(recipe.accumulate):
                batch = {k: v.to(accelerator.device, non_blocking=True) for k, v in next(batches).items()}
                # processes differ in dropout and agree on what concerns the global batch
                torch.manual_seed(mix(recipe.seed, step, micro, accelerator.process_index + 1))
                shared = torch.Generator().manual_seed(mix(recipe.seed, step, micro, 0))
                counter = nullcontext() if arithmetic else flop_counter()
                # gradients are summed locally and exchanged with the last micro-batch only
                alone = accelerator.no_sync(model) if micro < recipe.accumulate - 1 else nullcontext()
                with counter, alone:
                    with accelerator.autocast():
                        total, parts = loss(model, batch, shared)
                    accelerator.backward(total / recipe.accumulate)
                if not arithmetic:
                    arithmetic = counter.get_total_flops() * pieces / recipe.batch_size
                for name, value in ({"loss": total.detach()} | parts).items():
                    values[name] = values.get(name, 0) + value / recipe.accumulate
            if recipe.clip_norm is None:
                # not clipped to infinity: where the norm is beyond float32, that makes NaN of all gradients
                accelerator.unscale_gradients()
                gradients = [p.grad for p in model.parameters() if p.grad is not None]
                values["gradient_norm"] = nn.utils.get_total_norm(gradients)
            else:
                values["gradient_norm"] = accelerator.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            if hasattr(plain, "constrain"):
                plain.constrain()
            window.append(values)
            done = step + 1
            bar.update()

            validating = done % recipe.validate_every == 0 or done == recipe.steps
            caught, overdue = control.largest(
                stop.caught or 0, time.monotonic() - last_save > 60 * recipe.checkpoint_minutes
            )
            saving = done % recipe.checkpoint_every == 0 or done == recipe.steps or bool(caught or overdue)
            logging = done % LOG_EVERY == 0 or validating
            timed_steps += 1
            if logging or saving:  # what is not finite ends the training before it is saved
                settled += over_processes(window, done - len(window), checkpoints, accelerator)
                window = []
            paused = (
                time.monotonic()
            )  # what the steps have cost is known only now: a graphics card lags behind
            if logging:
                means = mean_of(settled)
                means["learning_rate"] = rate
                history.add(done, "train", means)
                seconds = (paused - timed_from) / timed_steps
                speed = recipe.batch_size / seconds  # items per second, over all processes
                costs = {
                    "seconds_per_step": seconds,
                    "items_per_second": speed,
                    mfu: speed * arithmetic / (peak * accelerator.num_processes),
                }
                costs |= peak_memory(accelerator.device)
                run.curve(done, {f"train/{k}": v for k, v in (means | costs).items()})
                bar.set_postfix(loss=f"{means['loss']:.3f}")
                settled = []
            if validating:
                measure(done)
                (caught,) = control.largest(stop.caught or 0)  # the signal may have come meanwhile
            if saving or caught:
                save(done)
                last_save = time.monotonic()
            if caught and done < recipe.steps:
                name = signal.Signals(caught).name
                run.log(f"stopped by {name} after step {done}; the same command goes on from there")
                raise SystemExit(128 + caught)
            if logging:
                timed_from, timed_steps = time.monotonic(), 0
            else:
                timed_from += time.monotonic() - paused
    if recipe.patience is not None:
        plain.load_state_dict(best.model)
    return history


@contextmanager
def deterministic_algorithms(strict: bool = True) -> Iterator[None]:
    """Inside `with`, sums are added in one order whatever the threads do, so that the same run gives the same bits.

    An operation that has no such algorithm on this device raises RuntimeError if `strict`, and otherwise warns and
    goes on. Then attention, too, sums its gradients in any order on a graphics card, although it could do better. The
    memory that PyTorch would fill in this mode, to make reading it unwritten reproducible, stays as it is.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill


def parameter_groups(model: nn.Module, weight_decay: float, decay_all: bool = False) -> list[dict[str, Any]]:
    """AdamW groups: matrices decay; biases, norms, scalars, positions, query tokens and codes do not, unless `decay_all`."""
    if decay_all:
        return [{"params": list(model.parameters()), "weight_decay": weight_decay}]
    free = ("position", "query_tokens", "codebook")
    decay, rest = [], []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and not any(word in name for word in free)
        (decay if matrix else rest).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def over_processes(
    window: list[dict[str, Any]], first: int, checkpoints: Checkpoints, accelerator: Accelerator
) -> list[dict[str, float]]:
    """Each step's values as means over all processes; `first` is the number of steps before the window.

    Raises DivergedError for the first that is not finite. Under a loss scaler a gradient norm may be: the scaler
    skips such a step.
    """
    names = list(window[0])
    columns = [[torch.as_tensor(values[name], dtype=torch.float32) for name in names] for values in window]
    table = torch.stack([torch.stack([x.detach().to(accelerator.device) for x in row]) for row in columns])
    rows = [dict(zip(names, row, strict=True)) for row in accelerator.reduce(table, "mean").tolist()]
    by_cause = sorted(names, key=("loss", "gradient_norm").__contains__)  # a part tells more than the sum
    for step, values in enumerate(rows, start=first + 1):
        for name in by_cause:
            if not math.isfinite(values[name]) and (name != "gradient_norm" or accelerator.scaler is None):
                raise DivergedError(name, values[name], step, checkpoints)
    return rows


def mean_of(steps: list[dict[str, float]]) -> dict[str, float]:
    """Means over steps, of what is finite: the gradient norm of a step that the loss scaler skips is not."""
    columns = {name: [values[name] for values in steps if math.isfinite(values[name])] for name in steps[0]}
    return {name: float(np.mean(column)) for name, column in columns.items() if column}


def state_folder(stage: str, signature: str) -> Path:
    """Where a stage's checkpoints live: another signature (parameters, inputs, code) is another folder."""
    return Path(os.environ.get("MEDUNIFIER_STATE", ".state")) / "checkpoints" / stage / signature[:16]
