"""Training step on a GPU, at the paper's shapes: `python -m benchmarks.cuda_step [--save]`.

Preset `lean` with cached features, random weights, bf16 autocast, fused AdamW: images per second, MFU (arithmetic
counted, against the GPU's dense bf16 peak), and peak memory, for batches of 32, 128 and 512, as PyTorch runs it and
with blocks and decoders under torch.compile. Reports have 95 tokens, then 60 on average (45 to 75). A batch that does
not fit is done in 2, 4 or 8 micro-batches, as `accumulate` does it in training: their negatives are their own. Each
value is the median of 5 repetitions of some steps. Beside them what a step asks of any GPU: arithmetic,
operations started, and what they read and write, counted by PyTorch's operations (on a CPU a dropout counts three,
which a GPU does in one). Without a GPU the same runs on the CPU, to try it (`--preset demo --batches 4`), and
`--count` counts alone, two images and four, which takes two minutes.
`--save` writes benchmarks/results/cuda_step-DATE.json, with `--count` operations-DATE.json.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import records
from benchmarks.training_step import LENGTHS, batch, config
from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from medunifier.training.optimizer import deterministic_algorithms, parameter_groups
from medunifier.training.throughput import flop_counter, peak_flops, peak_memory

REPETITIONS, STEPS = 5, 4
PIECES = (1, 2, 4, 8)  # micro-batches tried in turn


def compile_blocks(model: MedUnifierModel) -> None:
    """Run the Q-Former's blocks, the adapters and the decoders under torch.compile in training, from now on.

    A block is compiled once for each pass, since all blocks share their code; kernels are chosen without trying them
    out, so that the same run gives the same bits.
    """

    def compiled(function: Callable, dynamic: bool) -> Callable:
        fast = torch.compile(
            function,
            dynamic=dynamic,
            options={"deterministic": True, "triton.coalesce_tiling_analysis": False},  # which fails in 2.11
        )
        return lambda *args, **kwargs: (fast if torch.is_grad_enabled() else function)(*args, **kwargs)

    for block in model.qformer.blocks:
        block.forward = compiled(block.forward, dynamic=True)  # no two batches have as many words
    generator = model.image_generator
    parts = (generator.top_adapter, generator.bottom_adapter, generator.top_decoder, generator.decoder)
    for part in parts:
        part.forward = compiled(part.forward, dynamic=False)


class Operations(TorchDispatchMode):
    """Counts PyTorch's operations inside `with`, and the bytes of the tensors that they read and write.

    Views and bare allocations do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = self.bytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        name = operation.overloadpacket.__name__
        if not (operation.is_view or name == "_unsafe_view" or name.startswith(("empty", "new_empty"))):
            self.number += 1
            self.bytes += sum(x.nbytes for x in tree_leaves((args, found)) if isinstance(x, torch.Tensor))
        return found


class Step:
    """A complete training step on `pieces` micro-batches, `size` images in all."""

    def __init__(self, model: MedUnifierModel, lengths: tuple[int, int], size: int, pieces: int):
        self.model, self.pieces = model, pieces
        self.device = model.device
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, 0.05), lr=1e-5, betas=(0.9, 0.95), fused=True
        )
        low, high = lengths
        own = size // pieces
        spread = [low + (high - low) * i // max(own - 1, 1) for i in range(own)]
        # as in training, no batch has as many tokens as the one before
        self.batches = itertools.cycle(
            batch(model.config, tuple(min(n + more, 95) for n in spread), self.device) for more in range(3)
        )

    def __call__(self) -> None:
        for _ in range(self.pieces):
            with torch.autocast(self.device.type, torch.bfloat16):
                total = self.model(**next(self.batches)).total
            (total / self.pieces).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.constrain()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(model: MedUnifierModel, lengths: tuple[int, int], size: int, pieces: int) -> dict[str, Any]:
    """Measure images per second, MFU and GiB.

    Raises:
        torch.OutOfMemoryError: the batch does not fit.
    """
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = Step(model, lengths, size, pieces)
    with deterministic_algorithms():
        with flop_counter() as counter, torch.compiler.set_stance("force_eager"), Operations() as operations:
            step()
        step.wait()
        begun = time.perf_counter()
        for _ in range(5):
            step()
        step.wait()
        warm = time.perf_counter() - begun
        speeds = []
        for _ in range(REPETITIONS):
            begun = time.perf_counter()
            for _ in range(STEPS):
                step()
            step.wait()
            speeds.append(STEPS * size / (time.perf_counter() - begun))
    peak, against = peak_flops(model.device)
    speed = statistics.median(speeds)
    return {
        "pictures_per_second": round(speed, 1),
        against: round(speed * counter.get_total_flops() / size / peak, 4),
        "gflop_per_picture": round(counter.get_total_flops() / size / 1e9, 1),
        "operations": operations.number,
        "gb_moved": round(operations.bytes / 1e9, 1),  # by the whole step
        **{name: round(value, 2) for name, value in peak_memory(model.device).items()},
        "first_five_steps_s": round(warm, 1),  # with the compilation
    }


def count(model: MedUnifierModel, lengths: tuple[int, int]) -> dict[str, Any]:
    """Count operations of a forward and a backward pass; arithmetic and GB moved per further image, and fixed GB.

    Without dropout inside attention, which keeps its whole matrix on a CPU, and not on a GPU.
    """
    attention = F.scaled_dot_product_attention

    def without_dropout(*args, dropout_p: float = 0.0, **kwargs) -> torch.Tensor:
        return attention(*args, **kwargs)

    moved, flop = [], []
    with patch.object(F, "scaled_dot_product_attention", without_dropout):
        for repeat in (1, 2):
            pairs = batch(model.config, lengths * repeat, model.device)
            with deterministic_algorithms(), flop_counter() as counter, Operations() as operations:
                with torch.autocast(model.device.type, torch.bfloat16):
                    total = model(**pairs).total
                total.backward()
            model.zero_grad()
            moved.append(operations.bytes / 1e9)
            flop.append(counter.get_total_flops() / 1e9)
    each = (moved[1] - moved[0]) / 2
    return {
        "operations": operations.number,
        "gflop_per_picture": round((flop[1] - flop[0]) / 2, 1),
        "gb_moved_per_picture": round(each, 2),
        "gb_moved_besides": round(moved[0] - 2 * each, 2),
    }


def save(found: list[dict[str, Any]]) -> None:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    about = {"card": gpu, "repetitions": REPETITIONS, "steps_each": STEPS, "figures": found}
    records.save("cuda_step", "python -m benchmarks.cuda_step --save", about)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="lean", help="whose model (lean)")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[32, 128, 512], help="images a step (32 128 512)"
    )
    parser.add_argument(
        "--tokens", nargs="+", choices=LENGTHS, default=list(LENGTHS), help="lengths of the reports"
    )
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=("eager", "compiled"),
        default=["eager", "compiled"],
        help="how it is run (both)",
    )
    parser.add_argument(
        "--count", action="store_true", help="count operations and bytes, and measure no time"
    )
    parser.add_argument("--save", action="store_true", help="write a record to benchmarks/results/")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    model = MedUnifierModel(config(arguments.preset)).train().to("cuda" if cuda else "cpu")
    found = []
    if arguments.count:
        for tokens in arguments.tokens:
            found.append({"reports": tokens} | count(model, LENGTHS[tokens]))
            print(found[-1], flush=True)
        if arguments.save:
            records.save("operations", "python -m benchmarks.cuda_step --count --save", {"figures": found})
        return 0
    for mode in sorted(arguments.modes, reverse=True):  # eager first: what is compiled stays so
        if mode == "compiled":
            compile_blocks(model)
        for tokens in arguments.tokens:
            for size in arguments.batches:
                for pieces in PIECES:
                    about = {"mode": mode, "reports": tokens, "batch": size, "micro_batches": pieces}
                    try:
                        about |= measure(model, LENGTHS[tokens], size, pieces)
                    except torch.OutOfMemoryError:
                        print(f"{about}: does not fit", flush=True)
                        model.zero_grad()
                        continue
                    print(about, flush=True)
                    found.append(about)
                    if arguments.save:  # each at once: nothing measured is lost
                        save(found)
                    break
    return 0


if __name__ == "__main__":
    sys.exit(main())
