"""Two processes with half the batch each give the losses and gradients of one with the whole batch.

So do micro-batches on two processes, and rows of the other process are fetched by number.
"""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from medunifier.huggingface.modeling_medunifier import MedUnifierConfig, MedUnifierModel
from medunifier.pretraining.gradient_cache import join_micro_batches
from medunifier.pretraining.objective import OBJECTIVES
from tests.support.paths import REPO

WITH_NEGATIVES = {"itc": 1.0, "itm": 1.0, "itg": 0.0, "tig": 0.0}  # the objectives that use them


def batch_norm_case() -> tuple[MedUnifierModel, dict[str, torch.Tensor]]:
    """`case` with batch normalisation, in double precision: images that are all but even magnify rounding."""
    model, batch = case(decoder_norm="batch")
    wide = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    return model.double(), wide


def case(**changes) -> tuple[MedUnifierModel, dict[str, torch.Tensor]]:
    """A small model, its configuration with `changes`, and a batch of 6, the same at every call."""
    torch.manual_seed(3)
    sizes = {
        "vision_width": 10,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "vocab_size": 30,
        "max_text_tokens": 12,
        "projection": 8,
        "dropout": 0.0,
        "codebook_size": 16,
        "code_width": 8,
        "decoder_channels": (8, 8, 4, 4),
        "image_channels": 1,
        "decode_token_id": 5,
    }
    config = MedUnifierConfig(**(sizes | changes))
    model = MedUnifierModel(config)
    ids = torch.randint(6, 30, (6, 9))
    ids[:, 0] = config.cls_token_id
    lengths = torch.tensor([9, 5, 7, 3, 9, 4])
    batch = {
        "features": torch.randn(6, 257, 10),
        "input_ids": ids,
        "attention_mask": (torch.arange(9) < lengths[:, None]).long(),
        "images": torch.rand(6, 1, 224, 224),
    }
    return model, batch


def step(
    called: torch.nn.Module, model: MedUnifierModel, batch: dict[str, torch.Tensor], path: Path | str
) -> None:
    """One forward and backward pass; leaves the mean losses and the gradients in a file."""
    model.train()
    weights = WITH_NEGATIVES if model.config.negatives == "local" else None
    losses = called(**batch, weights=weights, generator=torch.Generator().manual_seed(11))
    losses.total.backward()
    leave(model, losses.parts, path)


def leave(model: MedUnifierModel, parts: dict[str, torch.Tensor], path: Path | str) -> None:
    """Save the parts' means over processes, the gradients and the buffers."""
    parts = {k: v.clone() for k, v in parts.items()}
    if dist.is_initialized():
        for value in parts.values():
            dist.all_reduce(value)
            value /= dist.get_world_size()
    if not dist.is_initialized() or dist.get_rank() == 0:
        gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
        buffers = dict(model.named_buffers())
        torch.save({"parts": parts, "gradients": gradients, "buffers": buffers}, path)


def equal_reports_case() -> tuple[MedUnifierModel, dict[str, torch.Tensor]]:
    """`case` with codes that stay where they are, and four equal reports."""
    model, batch = case(codebook_start="uniform")
    for name in ("input_ids", "attention_mask"):
        batch[name][1:4] = batch[name][:1]
    return model, batch


def joined_step(
    called: torch.nn.Module, model: MedUnifierModel, batch: dict[str, torch.Tensor], path: Path | str
) -> None:
    """`step` in three micro-batches, of a pair each on two processes."""
    model.train()
    micro_batches = [
        dict(zip(batch, rows, strict=True))
        for rows in zip(*(v.chunk(3) for v in batch.values()), strict=True)
    ]
    weights = dict.fromkeys(OBJECTIVES, 1.0)
    inputs = join_micro_batches(model, micro_batches, weights, lambda _: torch.Generator().manual_seed(11))
    totals: dict[str, torch.Tensor] = {}
    for number, part in enumerate(inputs):
        with nullcontext() if number == 2 or called is model else called.no_sync():
            losses = called(**part, weights=weights)
            (losses.total / 3).backward()
        for name, value in losses.parts.items():
            totals[name] = totals.get(name, 0) + value / 3
    leave(model, totals, path)


CASES = {
    "global": (case, step),
    "local": (lambda: case(negatives="local"), step),
    "batch_norm": (batch_norm_case, step),
    "equal_reports": (equal_reports_case, step),
    "joined": (equal_reports_case, joined_step),
}

PROGRAM = """
import sys, torch, torch.distributed as dist
from medunifier.model.distributed import all_gather, fetch_rows
from tests.unit.model.test_distributed import CASES
dist.init_process_group("gloo")
numbers = torch.arange(8.0).view(4, 2) + 100 * dist.get_rank()
for dtype in (torch.float16, torch.float32, torch.int64):
    rows = torch.tensor([[7, 0, 5, 5, 1, 4], [0, 1, 2, 0, 3, 3]])[dist.get_rank()]
    everything = all_gather(numbers.to(dtype))
    found = fetch_rows(numbers.to(dtype), rows)
    assert torch.equal(found, everything[rows]) and found.dtype == dtype, (rows, found)
make, run = CASES[sys.argv[2]]
model, batch = make()
n = 6 // dist.get_world_size()
mine = {k: v[dist.get_rank() * n : (dist.get_rank() + 1) * n] for k, v in batch.items()}
run(torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True), model, mine, sys.argv[1])
dist.destroy_process_group()
"""


def run_two(folder: Path, kind: str) -> dict:
    """What two processes with half the batch each leave; kind: of `CASES`."""
    program = folder / "program.py"
    program.write_text(f"import sys; sys.path.insert(0, {str(REPO)!r})\n{PROGRAM}")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*launcher, program, folder / "two.pt", kind],
        cwd=REPO,
        check=True,
        timeout=300,
        capture_output=True,
    )
    return torch.load(folder / "two.pt")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["global", "batch_norm", "equal_reports", "joined"])
def test_two_processes_equal_one(tmp_path, kind):
    """`joined`: in three micro-batches each, against one process with the whole batch at once."""
    model, batch = CASES[kind][0]()
    step(model, model, batch, tmp_path / "one.pt")
    one, two = torch.load(tmp_path / "one.pt"), run_two(tmp_path, kind)
    close = {"rtol": 0, "atol": 1e-5}
    for name in ("itc", "itm", "itg", "tig", "itm_accuracy", "itm_negatives"):
        torch.testing.assert_close(two["parts"][name], one["parts"][name], **close)
    assert one["gradients"].keys() == two["gradients"].keys()
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, **close, msg=name)
    for name, buffer in one["buffers"].items():
        torch.testing.assert_close(two["buffers"][name], buffer, **close, msg=name)


@pytest.mark.slow
def test_local_negatives_are_those_of_each_processs_own_half(tmp_path):
    """As in the authors' code: means of the two halves, each trained on by itself."""
    halves = []
    for half in (slice(0, 3), slice(3, 6)):
        model, batch = case(negatives="local")
        step(model, model, {name: value[half] for name, value in batch.items()}, tmp_path / "half.pt")
        halves.append(torch.load(tmp_path / "half.pt"))
    two = run_two(tmp_path, "local")
    close = {"rtol": 0, "atol": 1e-5}
    for name in ("itc", "itm"):
        mean = sum(half["parts"][name] for half in halves) / 2
        torch.testing.assert_close(two["parts"][name], mean, **close)
    for name, gradient in two["gradients"].items():
        mean = sum(half["gradients"][name] for half in halves) / 2
        torch.testing.assert_close(gradient, mean, **close, msg=name)
    model, batch = case()  # with global negatives the loss is another
    step(model, model, batch, tmp_path / "one.pt")
    assert abs(torch.load(tmp_path / "one.pt")["parts"]["itc"] - two["parts"]["itc"]) > 0.1
