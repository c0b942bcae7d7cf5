"""Transposed convolutions of the image generator, ours against PyTorch's: `python -m benchmarks.enlarging [--save]`.

The layers of the demo's decoder that enlarge four times and more. Both ways compute a forward and a backward pass on the
same maps of 8 images, on one core, in turn; printed are the milliseconds of processor time of each. `--save` writes
benchmarks/results/enlarging-DATE.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks import records
from medunifier.model.image_layers import Enlarge

IMAGES = 8
LAYERS = {"shortcut": (64, 1, 16, 14), "last": (24, 1, 4, 56)}  # channels in and out, times, side of the map


def milliseconds(work: Callable[[], None]) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def compare(source: int, width: int, times: int, side: int, repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each way, and the largest difference of what they make."""
    torch.manual_seed(0)
    layer = Enlarge(source, width, times)
    x = torch.randn(IMAGES, source, side, side, requires_grad=True)
    upstream = torch.randn(IMAGES, width, times * side, times * side)
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "ours": layer,
        "pytorch": lambda x: nn.ConvTranspose2d.forward(layer, x),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 2):
        for name, way in ways.items():
            taken = milliseconds(lambda way=way: way(x).backward(upstream))
            if repeat >= 2:  # the first ones warm up
                found[name].append(taken)
    difference = float((layer(x) - nn.ConvTranspose2d.forward(layer, x)).abs().max().detach())
    return {f"{name}_ms": round(statistics.median(times), 2) for name, times in found.items()} | {
        "largest_difference": difference
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=30, help="passes of each way (default: 30)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/enlarging-DATE.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    layers = {name: compare(*sizes, arguments.repeats) for name, sizes in LAYERS.items()}
    about = {"processor": torch.backends.cpu.get_cpu_capability(), "images": IMAGES, "layers": layers}
    print(json.dumps(about, indent=1))
    if arguments.save:
        print(records.save("enlarging", "python -m benchmarks.enlarging --save", about))


if __name__ == "__main__":
    main()
