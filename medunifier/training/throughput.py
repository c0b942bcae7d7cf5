"""How well a training uses its machine: arithmetic per item, the device's peak, memory."""

import resource
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# Dense bf16 peak of tensor cores in FLOP/s, from NVIDIA's data sheets; the first name found in the device's counts.
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


def peak_flops(device: torch.device) -> tuple[float, str]:
    """FLOP/s that MFU is measured against, and the name of the curve that tells against which.

    `mfu`: the data sheet's bf16 peak of a known card. `share_of_matmul`: what a matrix product of 1024 x 1024
    reaches here in fp32 right now, where there is no data sheet (a CPU, another card).
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for card, peak in PEAK_BF16.items():
            if card in name:
                return peak, "mfu"
    return matmul_flops(device), "share_of_matmul"


def matmul_flops(device: torch.device, size: int = 1024, repeats: int = 5) -> float:
    """FLOP/s of a matrix product of size x size in fp32: the best of a few."""
    a = torch.ones(size, size, device=device)
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        a @ a
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flop_counter() -> FlopCounterMode:
    """Counts 2 x multiply-accumulate of all matrix products, convolutions and attention inside `with`.

    What it adds to torch's own: attention on the CPU.
    """
    aten, own = torch.ops.aten, {}
    if hasattr(aten, "_scaled_dot_product_flash_attention_for_cpu"):
        own[aten._scaled_dot_product_flash_attention_for_cpu] = _attention
        own[aten._scaled_dot_product_flash_attention_for_cpu_backward] = _attention_backward
    return FlopCounterMode(display=False, custom_mapping=own)


def _attention(query, key, value, *args, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad, query, key, value, *args, **kwargs) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peak so far in GiB: `gpu_memory_gib` allocated on the card, or `memory_gib` of this process."""
    if device.type == "cuda":
        return {"gpu_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss
    return {"memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
