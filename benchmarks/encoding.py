"""Processor time of encoding an image on a CPU, by batch size: `python -m benchmarks.encoding [--folder F --levels 16 32]`.

The encoder of params.yaml, or the one in a folder, reads the same random images in batches of each size, in turn. What the
system spends (mostly on fresh memory for the outputs of layers) is told apart from what the encoder computes. Freed memory
is kept, as in all stages; with `--give-back` glibc gives it back to the system, as it does by default.
`--save` writes benchmarks/results/encoding-DATE.json, beside what other encoders' runs of that day left there.
"""

import argparse
import json
import os
import resource
import statistics
from pathlib import Path

import numpy as np
import torch

from benchmarks import records
from medunifier.runtime.memory import keep_freed_memory
from medunifier.runtime.params import load_params
from medunifier.vision.frozen_encoder import FrozenEncoder, load_vision

SIDE = 224  # of the stored images, in pixels


def encode(encoder: FrozenEncoder, images: torch.Tensor, batch: int) -> np.ndarray:
    """Return the features of images (n, 3, 224, 224), in batches, as float16 [n, tokens, width]."""
    with torch.inference_mode():
        return np.concatenate([encoder(part).half().numpy() for part in images.split(batch)])


def measure(encoder: FrozenEncoder, count: int, batches: list[int], repeats: int) -> list[dict[str, float]]:
    """Return for each batch size the milliseconds of processor time per image: the encoder's and the system's."""
    images = torch.from_numpy(np.random.default_rng(0).random((count, 1, SIDE, SIDE), dtype=np.float32))
    images = images.expand(-1, 3, -1, -1)
    found: dict[int, list[tuple[float, float]]] = {batch: [] for batch in batches}
    features = {batch: encode(encoder, images, batch) for batch in batches}  # also warms up
    for _ in range(repeats):
        for batch, times in found.items():
            before = resource.getrusage(resource.RUSAGE_SELF)
            encode(encoder, images, batch)
            after = resource.getrusage(resource.RUSAGE_SELF)
            times.append((after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime))
    return [
        {
            "batch": batch,
            "user_ms": round(statistics.median(user for user, _ in times) / count * 1e3, 1),
            "system_ms": round(statistics.median(system for _, system in times) / count * 1e3, 1),
            "bits_as_of_first_batch": bool((features[batch] == features[batches[0]]).all()),
        }
        for batch, times in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="folder of an encoder; default: that of params.yaml")
    parser.add_argument("--levels", type=int, nargs="*", default=[], help="of FOLDER, as vision.levels")
    parser.add_argument("--give-back", action="store_true", help="do not keep freed memory")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/encoding-DATE.json")
    arguments = parser.parse_args()
    if not arguments.give_back:
        keep_freed_memory()
    if arguments.folder is None:
        encoder = load_vision(**load_params().vision.choice)
    else:
        encoder = load_vision(str(arguments.folder), levels=tuple(arguments.levels))
    times = measure(encoder, arguments.images, arguments.batches, arguments.repeats)
    name = f"{Path(encoder.choice['model']).name}, {' x '.join(map(str, encoder.preprocessing.size))}"
    name += ", memory given back" if arguments.give_back else ""
    tokens, width = 1 + encoder.rows * encoder.columns, encoder.width
    about = {"tokens": tokens, "width": width, "threads": torch.get_num_threads(), "times": times}
    print(json.dumps({name: about}, indent=1))
    if arguments.save:
        path = records.path("encoding")
        earlier = json.loads(path.read_text(encoding="utf-8"))["encoders"] if path.exists() else {}
        about["load_before"] = round(os.getloadavg()[0], 1)
        command = "python -m benchmarks.encoding [--folder F --levels 16 32] [--give-back] --save"
        records.save("encoding", command, {"images": arguments.images, "encoders": earlier | {name: about}})


if __name__ == "__main__":
    main()
