"""Signals that arrive during training, and decisions that all processes take together."""

import signal
from pathlib import Path
from typing import Self

import torch
import torch.distributed as dist
from accelerate import Accelerator

from medunifier.runtime.errors import InputError

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Control:
    """Agree on values across processes between steps, over gloo on the CPU, so that no GPU blocks."""

    def __init__(self, accelerator: Accelerator) -> None:
        several = accelerator.num_processes > 1
        group = dist.new_group(backend="gloo") if several else None
        assert not isinstance(group, int)  # an int where this process is not in the group
        self.group = group

    def largest(self, *numbers: int) -> list[int]:
        """Return the largest value of each number over all processes."""
        shared = torch.tensor([int(number) for number in numbers])
        if self.group is not None:
            dist.all_reduce(shared, dist.ReduceOp.MAX, self.group)
        return shared.tolist()

    def check_same(self, what: str, number: int, folder: Path) -> None:
        """Raise InputError unless all processes have the same number."""
        high, low = self.largest(number, -number)
        if high != -low:
            raise InputError(
                f"{folder}: processes differ in {what} ({-low} to {high}); set MEDUNIFIER_STATE to a folder "
                "that all nodes share"
            )


class StopSignal:
    """Inside `with`, SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 are noted in `caught` instead of ending the process."""

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None

    def __enter__(self) -> Self:
        # A signal that the process was started to ignore (Ctrl-C, in the background of a script) stays ignored.
        caught = [s for s in STOPPING if s is not signal.SIGINT or signal.getsignal(s) != signal.SIG_IGN]
        self.before = {s: signal.signal(s, self._note) for s in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.caught = signal.Signals(number)
