"""One training step at the paper's shapes, ours and the authors': `python -m benchmarks.training_step [--save]`.

Shapes: 257 x 1408 features, 32 queries, 12 blocks of 768, reports of 95 tokens, targets of 3 x 224 x 224, float32,
random weights. Ours is the preset `lean` and reads cached features. The authors' code is the preset `release` run by
our code: its ViT-g encodes each image in each step, its decoder has 745 M parameters, and every text has 95 tokens
(padding would cost our code nothing, so the texts themselves are that long).

    ours      our complete step, with reports of 95 tokens and of 60 on average
    vit       the authors' in parts, as a complete step does not fit a small machine's memory: the ViT,
    rest      all but the ViT and the bottom decoder,
    decoder   the bottom decoder (minutes)
    memory    bytes kept for the backward pass, per image, and what fits 80 GB

The parts take turns, each in a process of its own, for five repetitions (half an hour). Reported are medians and their
ratios; --save writes benchmarks/results/training_step-DATE.json. Times are processor time of one thread, so that other
work on the machine matters little. A step is forward pass, backward pass and AdamW: per image, AdamW's time over the
batch size. The depth of the model in `memory` is extrapolated from two shallow ones. On a GPU: benchmarks/cuda_step.py.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import records
from medunifier.huggingface.modeling_medunifier import MedUnifierConfig, MedUnifierModel
from medunifier.model.image_decoders import image_decoder
from medunifier.runtime.yaml import read_mapping
from medunifier.vision.frozen_encoder import drop_last_blocks

REPO = Path(__file__).resolve().parents[1]
BATCH = 2  # images: as many as fit beside the authors' decoder in 24 GB
LENGTHS = {"95_tokens": (95, 95), "60_tokens": (45, 75)}  # of reports; MIMIC-CXR's average is taken as 60
PAPER_BATCH = 32  # images on each GPU, over which AdamW is spread
GPU_MEMORY = 80e9  # bytes
CHUNK = 200_000_000  # parameters that AdamW steps at a time, to spare memory; its time is the sum


def config(preset: str) -> MedUnifierConfig:
    """Return the model configuration of a preset."""
    params = read_mapping(REPO / "workflow/presets" / f"{preset}.yaml")
    known = params["model"] | params["pretrain"]
    return MedUnifierConfig(**{name: known[name] for name in MedUnifierConfig().to_dict() if name in known})


class NoDecoder(nn.Module):
    """Stand-in for the bottom decoder while the rest is timed: latents' means as images."""

    def forward(self, top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
        return (top.mean((1, 2, 3)) + bottom.mean((1, 2, 3)))[:, None, None, None].expand(-1, 3, 224, 224)


def batch(c: MedUnifierConfig, lengths: tuple[int, ...], device: str = "cpu") -> dict[str, Any]:
    """Return random pairs with reports of these lengths."""
    n, longest = len(lengths), max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1000, 30000, (n, longest)) * mask
    ids[:, 0] = c.cls_token_id
    values = {
        "features": torch.randn(n, c.vision_tokens, c.vision_width),
        "input_ids": ids,
        "attention_mask": mask.long(),
        "images": torch.rand(n, c.image_channels, 224, 224),
    }
    return {k: v.to(device) for k, v in values.items()} | {"generator": torch.Generator().manual_seed(1)}


def seconds(work: Callable[[], Any]) -> float:
    """Return processor time, which other work on the machine changes little."""
    start = time.process_time()
    work()
    return time.process_time() - start


def adamw_seconds(model: nn.Module) -> float:
    """Time one step of AdamW over all parameters, with its moments already made."""
    total, chunk = 0.0, []
    parameters = list(model.parameters())
    for i, parameter in enumerate(parameters):
        chunk.append(parameter)
        if sum(p.numel() for p in chunk) >= CHUNK or i == len(parameters) - 1:
            for p in chunk:
                p.grad = torch.full_like(p, 1e-3)
            optimizer = torch.optim.AdamW(chunk, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
            optimizer.step()  # makes the moments
            total += seconds(optimizer.step)
            for p in chunk:
                p.grad = None
            chunk = []
            del optimizer
    return total


def vit_g() -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the encoding by EVA ViT-g with 39 of its 40 blocks, random weights: pixels to tokens."""
    import timm  # takes seconds; of all parts, each a process, one needs it

    with torch.device("meta"):
        vit = timm.create_model("eva_giant_patch14_clip_224", pretrained=False, num_classes=0)
    drop_last_blocks(vit, 1)
    vit.to_empty(device="cpu")
    for p in vit.parameters():
        p.data.uniform_(-0.02, 0.02)
    for b in vit.buffers():
        b.zero_()
    encoder: Any = vit.eval().requires_grad_(False)
    return encoder.forward_features


def ours(note: Callable[[str, float], None]) -> None:
    """Time our model: forward and backward per image, AdamW per step."""
    model = MedUnifierModel(config("lean")).train()
    for name, lengths in LENGTHS.items():
        pairs = batch(model.config, lengths)
        note(f"ours_{name}", seconds(lambda p=pairs: forward_backward(model, p)) / BATCH)
    model.zero_grad(set_to_none=True)
    note("ours_adamw", adamw_seconds(model))


def vit(note: Callable[[str, float], None]) -> None:
    """Time the authors' ViT in the loop: forward per image."""
    model, images = vit_g(), torch.rand(BATCH, 3, 224, 224)
    note("release_vit", seconds(lambda: model(images)) / BATCH)


def rest(note: Callable[[str, float], None]) -> None:
    """Time the authors' model without the bottom decoder: forward and backward per image; AdamW per step."""
    c = config("release")
    model = MedUnifierModel(without_decoder(c)).train()
    model.image_generator.decoder = NoDecoder()
    pairs = batch(c, LENGTHS["95_tokens"])
    note("release_rest", seconds(lambda: forward_backward(model, pairs)) / BATCH)
    model.zero_grad(set_to_none=True)
    note("release_rest_adamw", adamw_seconds(model))


def decoder(note: Callable[[str, float], None]) -> None:
    """Time the authors' bottom decoder: forward and backward of one image; AdamW per step."""
    c = config("release")
    with torch.device("meta"):
        model = bottom_decoder(c)
    model.to_empty(device="cpu").train()
    for x in [*model.parameters(), *model.buffers()]:
        x.data.copy_(
            torch.empty_like(x).uniform_(-0.02, 0.02) if x.is_floating_point() else torch.zeros_like(x)
        )
    top = torch.randn(1, c.code_width, 16, 16, requires_grad=True)
    bottom = torch.randn(1, 2 * c.code_width, 16, 16, requires_grad=True)
    note("release_decoder", seconds(lambda: model(top, bottom).square().mean().backward()))
    model.zero_grad(set_to_none=True)
    note("release_decoder_adamw", adamw_seconds(model))


def bottom_decoder(c: MedUnifierConfig) -> nn.Module:
    """Return the bottom decoder of a configuration, with random weights."""
    source = c.code_width * (2 if c.bottom_latents == "joined" else 3)
    channels = tuple(c.decoder_channels)
    return image_decoder(
        c.decoder_kind, source, channels, c.image_channels, c.decoder_norm, c.decoder_shortcut
    )


def without_decoder(c: MedUnifierConfig) -> MedUnifierConfig:
    """Return the same with a tiny decoder, to be replaced."""
    values: dict[str, Any] = c.to_dict() | {"decoder_channels": (8, 8, 8, 8)}
    return MedUnifierConfig(**values)


def forward_backward(model: nn.Module, pairs: dict[str, Any]) -> None:
    model(**pairs).total.backward()


class Kept:
    """Bytes that autograd keeps for the backward pass inside `with`, each storage once, parameters left out."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes = 0
        self.parameters = {p.untyped_storage()._cdata for p in model.parameters()}
        self.storages: dict[int, Any] = {}

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in self.parameters and storage._cdata not in self.storages:
            self.storages[storage._cdata] = storage
            self.bytes += storage.nbytes()
        return x

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda x: x)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)


def kept_per_picture(preset: str, lengths: tuple[int, int]) -> float:
    """Return bytes kept per further image in bf16 autocast: decoder, and the rest at two depths and two batches."""
    c = config(preset)
    few, more = (kept_by_rest(c, lengths, layers) for layers in (2, 4))
    rest = few + (more - few) / 2 * (c.layers - 2)  # every pair of blocks keeps the same
    width = c.code_width * (1 if c.bottom_latents == "joined" else 2)
    found = []
    with FakeTensorMode():  # shapes alone: the authors' decoder would take minutes
        fake = bottom_decoder(c)
        for n in (1, 2):
            maps = [torch.empty(n, w, 16, 16, requires_grad=True) for w in (c.code_width, width)]
            with Kept(fake) as kept, torch.autocast("cpu", torch.bfloat16):
                images = fake(*maps)
            found.append(kept.bytes)
            del images
    return rest + found[1] - found[0]


def kept_by_rest(c: MedUnifierConfig, lengths: tuple[int, int], layers: int) -> float:
    """Return bytes kept per further image by all but the decoder: a batch of four against one of two.

    Without dropout: attention with dropout keeps its whole matrix on a CPU, and not on a GPU.
    """
    model = MedUnifierModel(
        MedUnifierConfig(**without_decoder(c).to_dict() | {"layers": layers, "dropout": 0.0})
    ).train()
    model.image_generator.decoder = NoDecoder()
    found = []
    for repeat in (1, 2):
        with Kept(model) as kept, torch.autocast("cpu", torch.bfloat16):
            total = model(**batch(c, lengths * repeat)).total
        found.append(kept.bytes)
        del total
    return (found[1] - found[0]) / 2


def memory() -> dict[str, float]:
    """Return bytes per image in bf16, fixed bytes, and the computed largest batch on one GPU of 80 GB.

    Fixed: float32 weights, gradients and two moments (16 bytes a parameter), bf16 copies of the weights (2), and the
    frozen ViT in bf16 where it is in the loop. Work space of single operations is not in it. Dropout's masks
    (one byte for each dropped value, at 0.1 some 5 %) are not either.
    """
    found = {}
    for name, preset, lengths in (
        ("ours_95_tokens", "lean", LENGTHS["95_tokens"]),
        ("ours_60_tokens", "lean", LENGTHS["60_tokens"]),
        ("release", "release", LENGTHS["95_tokens"]),
    ):
        with torch.device("meta"):
            weights = sum(p.numel() for p in MedUnifierModel(config(preset)).parameters())
        vit_g = 0.986e9 if name == "release" else 0  # weights: 39 blocks of 25.0 M and the patches
        fixed = 18 * weights + 2 * vit_g
        each = kept_per_picture(preset, lengths)
        found |= {
            f"{name}_million_weights": weights / 1e6,
            f"{name}_fixed_gb": fixed / 1e9,
            f"{name}_mb_per_picture": each / 1e6,
            f"{name}_largest_batch_80_gb": int((GPU_MEMORY - fixed) // each),
        }
    return found


def summary(samples: dict[str, list[float]]) -> dict[str, float]:
    """Return medians, an image's step at the measured batch and at the paper's, and ratios."""
    found = {name: statistics.median(values) for name, values in samples.items()}
    for b in (BATCH, PAPER_BATCH):
        release = sum(found[f"release_{part}"] for part in ("vit", "rest", "decoder"))
        release += (found["release_rest_adamw"] + found["release_decoder_adamw"]) / b
        found[f"release_step_batch_{b}"] = release
        for name in LENGTHS:
            found[f"ours_{name}_step_batch_{b}"] = found[f"ours_{name}"] + found["ours_adamw"] / b
            found[f"times_faster_{name}_batch_{b}"] = release / found[f"ours_{name}_step_batch_{b}"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=5, help="of every part, in turn (5)")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/training_step-DATE.json"
    )
    parser.add_argument("--part", choices=(*PARTS, "memory"), help="this part only, printed as JSON")
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(measured(arguments.part)))
        return 0
    samples: dict[str, list[float]] = {}
    for _ in range(arguments.repetitions):
        for part in PARTS:
            for name, value in in_a_process(part).items():
                print(f"{name:<24} {value:8.2f}", flush=True)
                samples.setdefault(name, []).append(value)
    report(samples, in_a_process("memory"), arguments.save)
    return 0


def in_a_process(part: str) -> dict[str, float]:
    """Measure in a process of its own: what one part leaves in memory does not burden the next."""
    command = [sys.executable, "-m", "benchmarks.training_step", "--part", part]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=REPO).stdout)


def measured(part: str) -> dict[str, float]:
    """Return one repetition of a part, or `memory`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if part == "memory":
        return memory()
    found: dict[str, float] = {}
    PARTS[part](found.__setitem__)
    return found


def report(samples: dict[str, list[float]], memory: dict[str, float], save: bool) -> None:
    """Print the values, and write them to benchmarks/results/."""
    about = {
        "threads": 1,
        "repetitions": {name: len(values) for name, values in samples.items()},
        "core_seconds": {name: float(f"{value:.4g}") for name, value in summary(samples).items()},
        "memory": {name: float(f"{value:.4g}") for name, value in memory.items()},
    }
    print(json.dumps(about, indent=1))
    if save:
        records.save("training_step", "python -m benchmarks.training_step --save", about)


PARTS = {"ours": ours, "vit": vit, "rest": rest, "decoder": decoder}

if __name__ == "__main__":
    sys.exit(main())
