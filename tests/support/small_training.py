"""A training of seconds, for tests of the loop: a small network, its data and loss, twelve steps."""

import os
import signal

import numpy as np
import torch
from accelerate.state import AcceleratorState
from torch import nn

from medunifier.training.checkpoints import Checkpoints
from medunifier.training.loop import Trainer
from medunifier.training.recipe import Recipe


class Silent:
    def __init__(self):
        self.curves = []

    def curve(self, step, values):
        self.curves.append((step, values))

    def log(self, text):
        pass


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.3), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x):
        return self.layers(x)


def recipe(**changes):
    base = {
        "steps": 12,
        "batch_size": 4,
        "learning_rate": 0.01,
        "seed": 5,
        "warmup_fraction": 0.2,
        "validate_every": 4,
        "checkpoint_every": 3,
    }
    return Recipe(**(base | changes))


def data(rows):
    x = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)[rows]
    return {"x": torch.from_numpy(x), "y": torch.from_numpy(x.sum(1, keepdims=True))}


def loss(model, batch, generator):
    noise = torch.randn(len(batch["x"]), 1, generator=generator)  # as hard negatives: random, yet replayable
    value = ((model(batch["x"]) - batch["y"] + 0.1 * noise) ** 2).mean()
    return value, {"mse": value.detach()}


def fit(
    folder,
    *,
    chosen=None,
    net=None,
    loss=loss,
    load=data,
    validate=lambda model: {"norm": 1.0},
    run=None,
    groups=None,
    blocks=None,
):
    """Trains `net`, by default a new one, from the seed 0; returns it and the history."""
    AcceleratorState._reset_state()  # a process trains at one precision; a test at several
    torch.manual_seed(0)
    net = net or Net()
    history = Trainer(
        net,
        chosen or recipe(),
        items=10,
        load=load,
        loss=loss,
        validate=validate,
        tracker=run or Silent(),
        checkpoints=Checkpoints(folder),
        groups=groups,
        blocks=blocks,
    ).run()
    return net, history


def watched(folder, values, *, stop_after=None, **changes):
    """Trains with early stopping with `values` as validation losses by step; returns net, weights by step, history."""
    seen = {}

    def validate(model):
        step = len(seen)
        seen[step] = {k: v.clone() for k, v in model.state_dict().items()}
        return {"loss": values[step]}

    class Stopper(Silent):
        def log(self, text):
            if stop_after is not None and text.startswith(f"step {stop_after} "):
                os.kill(os.getpid(), signal.SIGTERM)

    chosen = recipe(validate_every=1, checkpoint_every=100, patience=2, **changes)
    net, history = fit(folder, chosen=chosen, validate=validate, run=Stopper())
    return net, seen, history
