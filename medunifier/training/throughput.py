"""Speed and use of the hardware in training: items per second, MFU, peak memory."""

import resource
import sys
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# Dense bf16 peak of tensor cores in FLOP/s, from NVIDIA's data sheets. The first name that the device's name
# contains counts, so a longer name stands above a shorter one.
PEAK_BF16 = {
    "B200": 2250e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100": 989e12,
    "L40S": 362e12,
    "A100": 312e12,
    "A40": 150e12,
    "A10": 125e12,
}


class Throughput:
    """Time per step, items per second and MFU since the last point of the curves, without pauses."""

    def __init__(self, device: torch.device, batch_size: int, processes: int) -> None:
        self.device, self.batch_size, self.processes = device, batch_size, processes
        self.peak, self.mfu_name = peak_flops(device)
        self.flops_per_item = 0.0  # counted on the first micro-batch
        self.started, self.steps = time.monotonic(), 0
        self.paused = self.started

    def step(self) -> None:
        """Count one optimizer step."""
        self.steps += 1

    def pause(self) -> None:
        """Stop the clock: after this come logging, validation and checkpoints."""
        self.paused = time.monotonic()

    def go_on(self, *, reset: bool) -> None:
        """Start the clock again; with `reset` from zero."""
        if reset:
            self.started, self.steps = time.monotonic(), 0
        else:
            self.started += time.monotonic() - self.paused

    def measures(self) -> dict[str, float]:
        """Return `seconds_per_step`, `items_per_second` over all processes, MFU and peak memory."""
        seconds = (self.paused - self.started) / self.steps
        speed = self.batch_size / seconds
        return {
            "seconds_per_step": seconds,
            "items_per_second": speed,
            self.mfu_name: speed * self.flops_per_item / (self.peak * self.processes),
        } | peak_memory(self.device)


def peak_flops(device: torch.device) -> tuple[float, str]:
    """Return the FLOP/s that MFU is relative to, and the name of its curve.

    `mfu`: relative to the data sheet's bf16 peak of a known GPU. `share_of_matmul`: relative to a measured fp32
    matrix product of 1024 x 1024, on a CPU or a GPU that is not listed.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for gpu, peak in PEAK_BF16.items():
            if gpu in name:
                return peak, "mfu"
    return matmul_flops(device), "share_of_matmul"


def matmul_flops(device: torch.device, size: int = 1024, repeats: int = 5) -> float:
    """Return the FLOP/s of a size x size matrix product in fp32, the best of `repeats`."""
    a = torch.ones(size, size, device=device)
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        torch.matmul(a, a)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flop_counter() -> FlopCounterMode:
    """Count 2 x multiply-accumulate of matrix products, convolutions and attention inside `with`.

    Adds attention on the CPU to what torch counts by itself.
    """
    aten: Any = torch.ops.aten
    own = {}
    if hasattr(aten, "_scaled_dot_product_flash_attention_for_cpu"):
        own[aten._scaled_dot_product_flash_attention_for_cpu] = _attention
        own[aten._scaled_dot_product_flash_attention_for_cpu_backward] = _attention_backward
    return FlopCounterMode(display=False, custom_mapping=own)


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return peak memory so far in GiB: `gpu_memory_gib` allocated, or `memory_gib` of this process on a CPU."""
    if device.type == "cuda":
        return {"gpu_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss
    return {"memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
