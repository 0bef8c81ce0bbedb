"""From noise to video (data/e2e): official weights in our networks, under our samplers.

Nano-Sora's is in test_nano_sora.py. The published codes guide three channels only, which is done here by hand.
"""

import torch

from tests.parity import test_dit as dit
from tests.parity import test_latte as latte
from tests.parity import test_sit as sit
from tests.parity.networks import frequencies_of_the_fixtures, read  # noqa: F401
from tests.parity.test_samplers import Recorded
from vidiff.registry import build
from zoo.converters import sit as sit_converter

F64 = torch.float64


def guide_three(cond, uncond, scale):
    """Three channels guided, the others as under the condition."""
    return torch.cat([torch.lerp(uncond[:, :3], cond[:, :3], scale), cond[:, 3:]], 1)


def drawn(sampler, spacing, steps, answer, z, noise=None):
    """A network of noise and variances on the ddpm table: answer (x, timesteps (B,)) -> noise, variances."""
    path, prediction = build("path", "ddpm"), build("prediction", "eps")

    def estimate(x, t):
        eps, v = answer(x, (1000 * t).round() - 1)
        return prediction.solve(path, x, eps, t).spread((v + 1) / 2)

    times = build("spacing", spacing)(steps, path, (0.0, 1.0))
    return build("sampler", sampler)(estimate, z.double(), times, path, Recorded(noise))


def near(found, expected, tolerance):
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@torch.no_grad()
def test_latte_by_ddim(frequencies_of_the_fixtures):  # noqa: F811
    run, _, _ = read("e2e", "latte_uncond_ddim")
    _, network = latte.load("latte_uncond_a", F64)
    out = drawn("euler", "leading", 10, lambda x, t: network(x, t).chunk(2, dim=2), run["in.z"])
    near(out, run["out64.final"], 1e-6)


@torch.no_grad()
def test_dit_by_ddpm_with_learned_variances_and_guidance(frequencies_of_the_fixtures):  # noqa: F811
    run, _, _ = read("e2e", "dit_ddpm_cfg")
    _, _, network = dit.load("dit_a", F64)

    def answer(x, t):
        null = torch.arange(2 * len(x)) >= len(x)
        cond, uncond = network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([run["in.y"]] * 2), null).chunk(2)
        return guide_three(cond, uncond, 4.0).chunk(2, dim=1)

    noise = run["in.noise"][:, : len(run["in.z"])].double()
    out = drawn({"name": "ddpm", "variance": "learned"}, "respaced", 10, answer, run["in.z"], noise)
    near(out, run["out64.final"], 1e-6)


@torch.no_grad()
def test_sit_by_euler_with_guidance():
    run, _, _ = read("e2e", "sit_ode_cfg")
    _, _, network = sit.load("sit_a", F64, sit_converter.from_official, "noise")
    path, prediction = build("path", "linear"), build("prediction", "velocity")

    def estimate(x, t):
        null = torch.arange(2 * len(x)) >= len(x)
        cond, uncond = network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([run["in.y"]] * 2), null).chunk(2)
        return prediction.solve(path, x, guide_three(cond, uncond, 2.5), t)

    times = build("spacing", "uniform")(8, path, (0.0, 1.0))
    out = build("sampler", "euler")(estimate, run["in.z"].double(), times, path, None)
    near(out, run["out64.final"], 1e-7)
