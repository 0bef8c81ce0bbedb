"""expand, the default inverse of log-SNR, variance-preserving paths."""

import pytest
import torch

from vidiff.diffusion.path import Path, VariancePreserving, expand, level_label


def test_expand_goes_by_rank_and_never_by_size():
    c = torch.tensor([2.0, 3.0])
    square = torch.ones(2, 2)  # the width equals B: plain broadcasting would scale columns
    assert torch.equal(expand(c, square) * square, torch.tensor([[2.0, 2.0], [3.0, 3.0]]))
    video = torch.ones(2, 2, 2, 2, 2)
    assert torch.equal((expand(c, video) * video)[:, 1, 1, 1, 1], c)
    frames = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert torch.equal((expand(frames, video) * video)[:, 0, :, 1, 0], frames)


@pytest.mark.parametrize(
    ("coefficient", "data"),
    [
        ((3,), (2, 3)),
        ((3,), (2, 4, 5, 6, 3)),
        ((1,), (2, 3)),
        ((2, 5), (2, 3)),
        ((2, 4), (2, 3, 5, 6, 7)),
        ((2, 5), (3, 2, 5, 6, 7)),
    ],
)
def test_expand_refuses_what_does_not_fit(coefficient, data):
    with pytest.raises(ValueError, match=r"does not fit data of shape"):
        expand(torch.ones(coefficient), torch.ones(data))


def test_expand_takes_a_scalar_and_casts_to_the_data():
    out = expand(torch.tensor(0.3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float32))
    assert out.dtype == torch.float32 and out.ndim == 0


class Cubic(Path):
    """A path that knows no inverse."""

    def alpha(self, t):
        return 1 - t**3

    def sigma(self, t):
        return t**2


def test_time_by_bisection():
    t = torch.linspace(1e-3, 0.999, 57, dtype=torch.float64)
    path = Cubic()
    assert torch.allclose(path.time(path.logsnr(t)), t, atol=1e-13)
    ends = path.time(torch.tensor([float("inf"), -float("inf")], dtype=torch.float64))
    assert torch.allclose(ends, torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-15)


def test_level_label_is_a_quarter_of_the_log_noise_level_within_its_limits():
    path, t = Cubic(), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    label = level_label(path, t)
    assert label.tolist() == [-2.0, pytest.approx(torch.log(torch.tensor(0.25 / 0.875)).item() / 4, rel=1e-6), 2.0]


class Constant(VariancePreserving):
    """beta is one number."""

    def __init__(self, rate=3.0):
        self.rate = rate

    def beta(self, t):
        return torch.full_like(t, self.rate)

    def total_beta(self, t):
        return self.rate * t

    def time_of_total(self, total):
        return total / self.rate


def test_a_variance_preserving_path_needs_only_its_beta():
    path, t = Constant(), torch.tensor([0.2, 0.9], dtype=torch.float64)
    assert torch.allclose(path.alpha(t) ** 2, torch.exp(-3 * t))
    assert torch.allclose(path.norm(t), torch.ones_like(t))
    assert torch.allclose(path.time(path.logsnr(t)), t)
    steep = Constant(50.0)
    assert torch.allclose(steep.time(steep.logsnr(t / 2)), t / 2, rtol=1e-13, atol=0)  # log-SNR -22: below softplus
    tiny = torch.tensor([1e-14], dtype=torch.float64)
    assert torch.allclose(path.sigma(tiny), (3 * tiny).sqrt(), rtol=1e-12, atol=0)  # 1 - exp would have lost it
