"""sdpa: the kernel that is named runs, or there is one line that says it does not."""

import pytest
import torch
from torch.nn import functional as F

import zoo.attention  # noqa: F401
from vidiff.registry import build


def sdpa(kernel):
    return build("attention", {"name": "sdpa", "kernel": kernel})


def qkv():
    return torch.randn(3, 2, 3, 5, 8, generator=torch.Generator().manual_seed(0)).unbind(0)


@pytest.mark.parametrize("kernel", ["flash", "math"])
def test_the_named_kernel_is_the_one_that_runs(kernel):
    q = qkv()[0].requires_grad_()
    out = sdpa(kernel)(q, *qkv()[1:])
    node = out.grad_fn
    names = []
    while node is not None:
        names.append(type(node).__name__)
        node = node.next_functions[0][0] if node.next_functions else None
    assert any("Flash" in name for name in names) == (kernel == "flash")
    assert torch.allclose(out, F.scaled_dot_product_attention(*qkv()), atol=1e-6)


@pytest.mark.parametrize("kernel", ["efficient", "cudnn"])
def test_a_kernel_that_a_cpu_has_not_is_refused_and_never_replaced(kernel):
    text = f"attention=sdpa: torch has no {kernel} kernel for cpu, float32, head_dim 8. Use attention.kernel=auto"
    assert sdpa(kernel).refuses("cpu", torch.float32, 8, False).startswith(text)
    with pytest.raises(ValueError, match=f"has no {kernel} kernel"):
        sdpa(kernel)(*qkv())


def test_auto_refuses_nothing():
    assert sdpa("auto").refuses("cuda", torch.float64, 7, True) is None


def test_a_compiled_graph_does_not_break():
    attention = sdpa("math")
    compiled = torch.compile(lambda q, k, v: attention(q + 1, k, v) * 2, backend="eager", fullgraph=True)
    q, k, v = qkv()
    assert torch.allclose(compiled(q, k, v), attention(q + 1, k, v) * 2)
