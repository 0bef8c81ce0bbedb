"""window: exactly the neighbours, at a cost that grows with the tokens and not with their square."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import zoo.attention  # noqa: F401
from vidiff.registry import build


def window(radius):
    return build("attention", {"name": "window", "radius": radius})


def qkv(n, dtype=torch.float64):
    return torch.randn(3, 2, 3, n, 4, generator=torch.Generator().manual_seed(n), dtype=dtype).unbind(0)


@pytest.mark.parametrize(("n", "radius"), [(1, 1), (7, 1), (11, 3), (12, 3), (13, 4), (5, 9), (40, 6)])
@pytest.mark.parametrize("masked", [False, True])
def test_equal_to_the_masked_formula(n, radius, masked):
    random = torch.Generator().manual_seed(radius)
    mask = torch.rand(2, 1, n, n, generator=random) > 0.3 if masked else None
    near = (torch.arange(n)[:, None] - torch.arange(n)).abs() <= radius
    results = []
    for name, seen in (("math", near if mask is None else near & mask), (None, mask)):
        q, k, v = (x.clone().requires_grad_() for x in qkv(n))
        out = (build("attention", name) if name else window(radius))(q, k, v, seen)
        results.append([out, *torch.autograd.grad(out.cos().sum(), (q, k, v))])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_a_token_sees_its_neighbours_and_nothing_else():
    q, k, v = (x.requires_grad_() for x in qkv(17))
    window(3)(q, k, v)[:, :, 8].sum().backward()
    reached = v.grad.abs().amax(dim=(0, 1, 3)) > 0
    assert reached.tolist() == [5 <= i <= 11 for i in range(17)]


def test_cost_grows_with_the_tokens():
    def flops(n):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            window(8)(*(torch.zeros(1, 2, n, 16) for _ in "qkv"))
        return counter.get_total_flops()

    assert flops(512) == 2 * flops(256) == 2 * 2 * 2 * 2 * 256 * 24 * 16


def test_two_sequences_have_no_neighbours():
    q, k, v = qkv(6)
    with pytest.raises(ValueError, match=r"6 queries and 5 keys.*Use attention=sdpa"):
        window(2)(q, k[:, :, :5], v[:, :, :5])
