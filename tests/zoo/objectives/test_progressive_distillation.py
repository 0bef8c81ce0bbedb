"""Two steps of the teacher in one, against the exact mixture and closed forms of Gaussian data."""

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import gaussian, three
from tests.teacher import Teacher, built
from vidiff.diffusion.estimate import place
from vidiff.diffusion.sampler import start
from vidiff.random import Random
from vidiff.registry import OBJECTIVES, PATHS, build
from vidiff.types import Cond

B, D = 5, 3


def distilling(path, mixture, steps, **settings):
    path = build("path", path)
    o = built(
        OBJECTIVES["progressive_distillation"],
        {"path": path, "steps": steps, **settings},
        Teacher(path, mixture.estimate(path)),
    )
    return o, path


def video(x):
    return x.reshape(-1, D, 1, 1, 1)


class Perfect(torch.nn.Module):
    """The student that has learned its target; its one parameter is an offset that should stay zero."""

    def __init__(self, o, teacher):
        super().__init__()
        self.o, self.teacher, self.offset = o, teacher, torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, label, cond):
        target = self.o.two_in_one(self.teacher, x, label)  # linear and cosine paths tell t itself
        return self.o.prediction.ask(self.o.path, target, label) + self.offset


def ends(sampler, estimate, path, steps, num=B):
    noise = torch.randn(num, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return sampler(estimate, start(path, video(noise), times[0]), times, path, None)


@pytest.mark.parametrize("prediction", ["v", "x0", "velocity"])
@pytest.mark.parametrize("path", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_the_student_of_n_steps_ends_where_its_teacher_of_2n_does(path, prediction, steps):
    """2 steps against 4 among them, from the same noise; the loss of that student is 0 and does not pull it away."""
    mixture = three(D)
    o, path = distilling(path, mixture, steps, prediction=prediction)
    student, euler = Perfect(o, mixture.estimate(path)), build("sampler", "euler")
    with torch.no_grad():
        own = ends(euler, lambda x, t: o.estimate(student, x, t, Cond()), path, steps)
        assert torch.allclose(own, ends(euler, mixture.estimate(path), path, 2 * steps), atol=1e-9)
        assert not torch.allclose(own, ends(euler, mixture.estimate(path), path, steps), atol=1e-2)
    losses = o.loss(student, video(mixture.sample(B, 1)), Cond(), Random(0, "train", rows=range(B)))
    losses["loss"].backward()
    assert losses["loss"] < 1e-18 and student.offset.grad.abs() < 1e-9


@pytest.mark.parametrize("path", PATHS.names())
def test_the_target_is_that_of_the_paper(path):
    """x~ = (x_t'' - (sigma''/sigma) x_t) / (alpha'' - (sigma''/sigma) alpha), on every path."""
    mixture = three(D)
    o, path = distilling(path, mixture, 4, prediction="x0")
    x = video(mixture.sample(3, 2))
    t = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    exact = mixture.estimate(path)
    half = place(path, exact(x, t), t - 0.125)
    end = place(path, exact(half, t - 0.125), t - 0.25)
    found = o.two_in_one(exact, x, t)
    alpha, sigma, alpha2, sigma2 = (
        f(u)[:, None, None, None, None] for u in (t, t - 0.25) for f in (path.alpha, path.sigma)
    )
    paper = (end - sigma2 / sigma * x) / (alpha2 - sigma2 / sigma * alpha)
    assert torch.allclose(found.x0, paper, rtol=1e-9, atol=1e-9)
    assert torch.allclose(place(path, found, t), x, atol=1e-9) and torch.allclose(
        place(path, found, t - 0.25), end, atol=1e-9
    )


def test_on_gaussian_data_two_ddim_steps_are_one_number():
    """N(0, v) on the cosine path: a DDIM step multiplies by (alpha_s alpha_t v + sigma_s sigma_t) / (alpha_t^2 v + sigma_t^2)."""
    v = 0.3
    o, path = distilling("cosine", gaussian([0.0] * D, [v] * D), 4)
    t = torch.tensor([0.75], dtype=torch.float64)

    def factor(t, s):
        at, st, as_, ss = path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s)
        return (as_ * at * v + ss * st) / (at**2 * v + st**2)

    x = torch.ones(1, D, 1, 1, 1, dtype=torch.float64)
    target = o.two_in_one(gaussian([0.0] * D, [v] * D).estimate(path), x, t)
    assert torch.allclose(
        place(path, target, t - 0.25), factor(t, t - 0.125) * factor(t - 0.125, t - 0.25) * x, atol=1e-12
    )


def test_times_are_those_that_steps_of_the_sampler_begin_at():
    o, path = distilling("cosine", three(D), 5)
    drawn = o.snapped(torch.linspace(1e-9, 1, 1000, dtype=torch.float64))
    grid = build("spacing", "uniform")(5, path, o.interval)
    assert (
        torch.allclose(drawn.unique(), grid[:-1].flip(0))
        and (drawn.unique(return_counts=True)[1] - 200).abs().max() <= 1
    )


def test_the_weight_is_the_truncated_snr_of_the_error_of_x0():
    """max(SNR, 1) |x0 - x0_hat|^2 (sec. 4) behind a v-prediction, whose error is that of x0 over sigma."""
    o, path = distilling("cosine", three(D), 8)
    x0, noise, t = (
        video(three(D).sample(4, 1)),
        video(three(D).sample(4, 2)),
        torch.tensor([0.25, 0.5, 0.75, 1.0]).double(),
    )

    def zero(x, label, cond):
        return torch.zeros_like(x)

    losses = [o.loss_at(zero, x0[i : i + 1], noise[i : i + 1], t[i : i + 1], Cond())["loss"] for i in range(4)]
    x = path.point(x0, noise, t)
    target = o.two_in_one(o.teacher.estimator(Cond()), x, t).x0
    believed = o.prediction.solve(path, x, torch.zeros_like(x), t).x0
    weight = path.logsnr(t).exp().clamp(min=1)
    assert torch.allclose(torch.stack(losses), weight * ((target - believed) ** 2).flatten(1).mean(1), rtol=1e-8)


def test_the_teacher_is_asked_twice_a_batch_and_sends_no_gradient():
    path = build("path", "cosine")
    scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    exact = three(D).estimate(path)
    teacher = Teacher(path, lambda x, t: type(exact(x, t))(*(scale * e for e in exact(x, t))))
    o = built(OBJECTIVES["progressive_distillation"], {"path": path, "steps": 4}, teacher)
    net = torch.nn.Conv3d(D, D, 1, dtype=torch.float64)
    o.loss(lambda x, label, cond: net(x), video(three(D).sample(B, 1)), Cond(), Random(0, "t", rows=range(B)))[
        "loss"
    ].backward()
    assert len(teacher.asked) == 2 and scale.grad is None and net.weight.grad.abs().sum() > 0
