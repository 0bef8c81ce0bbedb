"""How often torch's bf16 Conv3d returns a wrong weight gradient on this CPU, with oneDNN and without.

    python benchmarks/conv3d_bf16.py

Each trial compares the gradient of a 3x3x3 convolution in bf16 with the one in fp32, on fresh random numbers.
vidiff keeps 3-D convolutions in fp32 on CPUs because of what this prints (vidiff/precision.py).
"""

import torch
from torch.nn.functional import conv3d

SHAPES = (((4, 32, 2, 4, 4), 8), ((4, 128, 2, 2, 2), 64), ((4, 64, 4, 8, 8), 64))


def gradient(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """d sum(conv(x)^2) / d weight in the type of x."""
    weight = weight.to(x.dtype).detach().clone().requires_grad_()
    conv3d(x, weight, padding=1).square().sum().backward()
    return weight.grad.float()


def wrong(shape: tuple[int, ...], dim: int, trials: int = 60) -> int:
    """How many gradients are off by more than a tenth of their norm, or not finite."""
    bad = 0
    for seed in range(trials):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(shape, generator=generator)
        weight = torch.randn(dim, shape[1], 3, 3, 3, generator=generator) / 30
        exact, half = gradient(x, weight), gradient(x.bfloat16(), weight)
        bad += not (half - exact).norm() < 0.1 * exact.norm()
    return bad


if __name__ == "__main__":
    for shape, dim in SHAPES:
        counts = []
        for on in (True, False):
            with torch.backends.mkldnn.flags(enabled=on):
                counts.append(wrong(shape, dim))
        print(f"input {shape} to {dim} channels: wrong in {counts[0]} of 60 with oneDNN, {counts[1]} without")
