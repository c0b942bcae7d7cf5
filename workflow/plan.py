"""python -m workflow.plan --images 1e7 --gpus 64: estimate what a pre-training of that size takes.

Storage, read bandwidth, GPU hours and wall time per stage, for cached features (the frozen encoder runs once, its
features are read again at every pass) and for online ones (it runs at every pass). Work per image follows from
the sizes in params.yaml or a preset; speed is measured (`--measured`, a file of benchmarks/results) where this
repository could measure it, and assumed, as stated, where not. docs/scale.md explains the rules.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medunifier.runtime.errors import InputError, refuse
from medunifier.runtime.json_files import read_json_object
from medunifier.runtime.yaml import read_mapping
from workflow.encoder_sizes import KNOWN, OWN_SIZE, Cnn, Vit, encoder_of

RESULTS = Path("benchmarks/results")
PRESETS = Path("workflow/presets")
BACKWARD = 3  # forward and backward pass over the forward pass alone
TB, HOUR = 1e12, 3600.0


@dataclass(frozen=True)
class Machine:
    """The hardware that does the work."""

    gpus: int  # 0: the processor does everything
    cores: int  # all nodes together
    gpu_flops: float  # FLOP/s that a GPU sustains in training and inference
    core_flops: float  # FLOP/s that a core sustains in the same
    core_cnn_flops: float  # the same in a frozen CNN, whose layers move more than they compute
    core_pixels: float  # source pixels that a core decodes in a second
    core_rows: float  # rows of the index that a core prepares in a second

    @property
    def flops(self) -> float:
        """FLOP/s of all that computes models."""
        return self.gpus * self.gpu_flops if self.gpus else self.cores * self.core_flops

    def encoding(self, encoder: Vit | Cnn, flops: float) -> float:
        """Return the FLOP of training that take as long as `flops` of the encoder."""
        on_cores = not self.gpus and isinstance(encoder, Cnn)
        return flops * self.core_flops / self.core_cnn_flops if on_cores else flops


@dataclass(frozen=True)
class Work:
    """One stage: what it computes, reads and writes."""

    stage: str
    flops: float = 0.0
    read: float = 0.0  # bytes
    left: float = 0.0  # bytes on disk afterwards
    core_seconds: float = 0.0  # work that only cores do

    def seconds(self, machine: Machine) -> float:
        """Wall time with the whole machine, storage being fast enough."""
        return self.flops / machine.flops + self.core_seconds / machine.cores

    def gpu_hours(self, machine: Machine) -> float:
        """GPU hours on `machine`."""
        return machine.gpus * self.flops / machine.flops / HOUR


@dataclass(frozen=True)
class Sizes:
    """The sizes of one configuration that decide over its work."""

    params: Mapping[str, Any] = field(repr=False)
    encoder: Vit | Cnn

    @property
    def size(self) -> int:
        """Height and width that the encoder reads."""
        return self.params["vision"].get("size") or OWN_SIZE

    @property
    def tokens(self) -> int:
        """Features of an image, the one of the whole image included."""
        return self.encoder.tokens(self.size)

    @property
    def feature_bytes(self) -> int:
        """Bytes of the features of an image, float16."""
        return 2 * self.tokens * self.encoder.width

    @property
    def encoder_flops(self) -> float:
        """FLOP of the frozen encoder's forward pass over one image."""
        return self.encoder.flops(self.size)


def load_sizes(path: Path) -> Sizes:
    """Return the sizes in a params.yaml.

    Raises:
        InputError: the sizes of the encoder are not known.
    """
    params = read_mapping(path)
    vision = params["vision"]
    encoder = encoder_of(vision)
    if encoder is None:
        raise InputError(
            f"{path}: vision.{'model' if vision['model'] else 'folder'} {vision['model'] or vision['folder']}: sizes "
            f"unknown; known: {', '.join(KNOWN)}; add it to KNOWN in workflow/encoder_sizes.py"
        )
    return Sizes(params, encoder)


def stages(
    sizes: Sizes,
    model: Mapping[str, float],
    images: float,
    passes: float,
    pixels: float,
    online: bool,
    machine: Machine,
) -> list[Work]:
    """Return the work of each stage for `images` images of `pixels` source pixels, seen `passes` times in training."""
    side = sizes.params["images"]["size"]
    raw = images * pixels * RAW_BYTES_PER_PIXEL
    decoded = images * side**2
    features = images * sizes.feature_bytes
    encoding = machine.encoding(sizes.encoder, sizes.encoder_flops)
    training = passes * images
    forward, weights = model["model"] * 1e9, model["million_weights"] * 1e6
    pretrain = BACKWARD * forward + (encoding if online else 0)
    checkpoints = weights * 4 * 3 * 2  # weights and two moments, float32, two of them
    return [
        Work("prepare", core_seconds=images / machine.core_rows, left=images * 600),
        Work("decode_images", core_seconds=images * pixels / machine.core_pixels, read=raw, left=decoded),
        *([] if online else [Work("extract_features", images * encoding, decoded, features)]),
        Work(
            "pretrain",
            training * pretrain,
            training * (side**2 + (0 if online else features / images)),
            weights * 4 + checkpoints,
        ),
        Work(
            "encode_codes",
            images * (forward / 4 + (encoding if online else 0)),
            0,
            images * 640,
        ),
    ]


RAW_BYTES_PER_PIXEL = 0.19  # MIMIC-CXR-JPG: 1.6 MB for 2544 x 3056 pixels at 8 bits


def measured_speeds(path: Path | None) -> tuple[dict[str, Any], Path]:
    """Return the newest file of measured speeds, or the one given.

    Raises:
        InputError: there is none.
    """
    found = [path] if path else sorted(RESULTS.glob("stages-*.json"))
    if not found or not found[-1].exists():
        raise InputError(
            f"{found[-1] if found else RESULTS / 'stages-*.json'}: not there; python -m benchmarks.stages --save"
        )
    return read_json_object(found[-1], "python -m benchmarks.stages --save"), found[-1]


def report(arguments: argparse.Namespace) -> str:
    """Return the plan as text.

    Raises:
        InputError: no speeds are known for the preset or its encoder.
    """
    speeds, source = measured_speeds(arguments.measured)
    path = PRESETS / f"{arguments.preset}.yaml" if arguments.preset else Path("params.yaml")
    sizes = load_sizes(path)
    name = sizes.params["preset"]
    model = speeds["forward_gflop"].get(name)
    if model is None:
        raise InputError(
            f"{source}: no FLOP of preset {name}; add it to PRESETS of benchmarks/stages.py, run that"
        )
    cnn_speed = speeds.get("core_gflops_cnn")
    if cnn_speed is None and not arguments.gpus and isinstance(sizes.encoder, Cnn):
        raise InputError(
            f"{source}: no speed of a CNN on a core; python -m benchmarks.stages --save, after make demo"
        )
    machine = Machine(
        gpus=arguments.gpus,
        cores=arguments.cores or max(8 * arguments.gpus, speeds["cores"]),
        gpu_flops=arguments.gpu_tflops * 1e12,
        core_flops=speeds["core_gflops_training"] * 1e9,
        core_cnn_flops=(cnn_speed or math.nan) * 1e9,
        core_pixels=speeds["core_decoded_megapixels_per_s"] * 1e6,
        core_rows=speeds["core_prepared_rows_per_s"],
    )
    lines = assumptions(arguments, machine, sizes, speeds, path, source)
    for online in (False, True):
        works = stages(sizes, model, arguments.images, arguments.passes, arguments.pixels, online, machine)
        lines += ["", "Online features" if online else "Cached features", *table(works, machine)]
    cheaper = sizes.encoder_flops * (arguments.passes - 1)
    if arguments.passes > 1 and math.isfinite(cheaper):
        lines += [
            "",
            f"Caching spends {sizes.feature_bytes / 1e6:.3g} MB of storage an image to save {cheaper / 1e12:.3g} TFLOP an image.",
        ]
    return "\n".join(lines)


def assumptions(
    arguments: argparse.Namespace,
    machine: Machine,
    sizes: Sizes,
    speeds: Mapping[str, Any],
    path: Path,
    source: Path,
) -> list[str]:
    """Return the lines that say what the plan assumes, and where each measured speed is from."""
    images, passes = arguments.images, arguments.passes
    model = speeds["forward_gflop"][sizes.params["preset"]]
    return [
        f"{images:,.0f} images, seen {passes:.3g} times; {machine.gpus} GPUs, {machine.cores} cores; sizes of {path}",
        "",
        "Assumed",
        (
            f"  a GPU sustains {arguments.gpu_tflops:g} TFLOP/s (--gpu-tflops; an H200 trained at 180 to 205)"
            if machine.gpus
            else f"  a core sustains {machine.core_flops / 1e9:.1f} GFLOP/s in training"
            + (f", {machine.core_cnn_flops / 1e9:.1f} in the CNN" if isinstance(sizes.encoder, Cnn) else "")
            + " (measured)"
        ),
        f"  a core decodes {speeds['core_decoded_megapixels_per_s']:.2f} Mpixel/s, prepares "
        + f"{speeds['core_prepared_rows_per_s']:.0f} rows/s (measured: {source})",
        f"  a source image has {arguments.pixels / 1e6:.3g} Mpixel (--pixels), {RAW_BYTES_PER_PIXEL} bytes each",
        f"  encoder {sizes.encoder_flops / 1e9:.4g} GFLOP an image, model {model['model']:.4g} GFLOP forward (counted), "
        + f"{BACKWARD} times that in training; work divides evenly, storage keeps up, start-up is not counted",
    ]


def table(works: Sequence[Work], machine: Machine) -> list[str]:
    """Return a line for each stage and their sums."""
    lines = [f"  {'stage':<17}{'leaves, TB':>11}{'reads, TB':>11}{'GB/s':>8}{'GPU h':>11}{'wall, h':>10}"]
    for work in works:
        seconds = work.seconds(machine)
        lines.append(
            f"  {work.stage:<17}{work.left / TB:>11.3f}{work.read / TB:>11.3f}{work.read / seconds / 1e9:>8.2f}"
            f"{work.gpu_hours(machine):>11.1f}{seconds / HOUR:>10.2f}"
        )
    hours = sum(work.gpu_hours(machine) for work in works)
    wall = sum(work.seconds(machine) for work in works) / HOUR
    left, read = (sum(getattr(work, name) for work in works) / TB for name in ("left", "read"))
    return [*lines, f"  {'all':<17}{left:>11.3f}{read:>11.3f}{'':>8}{hours:>11.1f}{wall:>10.2f}"]


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(
        prog="python -m workflow.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--images", type=float, required=True, help="images with a report, such as 1e7")
    found.add_argument("--gpus", type=int, required=True, help="GPUs of all nodes; 0: the processor alone")
    found.add_argument("--cores", type=int, help="cores of all nodes; default: 8 for each GPU")
    found.add_argument("--preset", help="name of a preset; default: params.yaml")
    found.add_argument("--passes", type=float, default=20, help="times that training sees an image (20)")
    found.add_argument("--gpu-tflops", type=float, default=200, help="TFLOP/s that a GPU sustains (200)")
    found.add_argument(
        "--pixels", type=float, default=7.8e6, help="pixels of a source image (7.8e6: MIMIC-CXR)"
    )
    found.add_argument(
        "--measured", type=Path, help="file of speeds; default: the newest in benchmarks/results"
    )
    return found


def main() -> int:
    """Print the plan; return the exit code."""
    arguments = parser().parse_args()
    try:
        if arguments.images < 1 or arguments.gpus < 0:
            raise InputError("--images must be at least 1 and --gpus not negative")
        print(report(arguments))
    except Exception as error:
        return refuse("plan", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
