"""Values of single predictions that follow from their papers."""

import torch

import zoo.objectives  # noqa: F401
from vidiff.registry import PATHS, build

F64 = torch.float64
T = torch.tensor([0.1, 0.45, 0.93], dtype=F64)
X0, NOISE = torch.randn(2, 3, 4, 2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=F64).unbind(0)


def target(prediction, path):
    return build("prediction", prediction).target(build("path", path), X0, NOISE, T)


def column(c):
    return c.reshape(-1, 1, 1, 1, 1)


def test_targets():
    vp = build("path", "vp")
    alpha, sigma = column(vp.alpha(T)), column(vp.sigma(T))
    assert torch.equal(target("eps", "vp"), NOISE) and torch.equal(target("x0", "vp"), X0)
    assert torch.allclose(target("v", "vp"), alpha * NOISE - sigma * X0)
    assert torch.allclose(target("score", "vp"), -NOISE / sigma)
    assert torch.allclose(target("velocity", "linear"), NOISE - X0)


def test_edm_is_its_table_on_the_variance_exploding_path():
    """D = c_skip x + c_out F(c_in x; c_noise) with the published coefficients."""
    for sigma_data in (0.5, 1.0):
        edm, ve = build("prediction", {"name": "edm", "sigma_data": sigma_data}), build("path", "ve")
        sigma = column(ve.sigma(T))
        total = sigma**2 + sigma_data**2
        skip, out, scale = sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt()
        x, f = X0 + sigma * NOISE, torch.sin(X0)
        assert torch.allclose(edm.solve(ve, x, f, T).x0, skip * x + out * f)
        assert torch.allclose(column(edm.input_scale(ve, T)), scale)
        assert torch.allclose(edm.label(ve, T), sigma.flatten().log() / 4)


def test_edm_sees_the_same_noise_level_the_same_on_every_path():
    edm, level = build("prediction", {"name": "edm", "sigma_data": 0.7}), torch.tensor([0.02, 0.6, 7.0], dtype=F64)
    x = X0 + column(level) * NOISE  # as EDM writes it
    f, seen = torch.cos(NOISE), []
    for path in (PATHS[n].build() for n in ("ve", "linear", "cosine", "vp", "ddpm", "ve_geometric", "sigmoid", "gvp")):
        t = path.time(-2 * level.log())
        x_t = column(path.alpha(t)) * x
        seen.append((column(edm.input_scale(path, t)) * x_t, edm.label(path, t), edm.solve(path, x_t, f, t).x0))
    for ours in seen[1:]:
        assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(ours, seen[0]))


def test_edm_of_unit_data_is_minus_v_where_variance_is_preserved():
    for path in ("cosine", "vp", "gvp", "ddpm"):
        assert torch.allclose(target("edm", path), -target("v", path), atol=1e-12)


def test_velocity_is_v_along_the_quarter_circle():
    assert torch.allclose(target("velocity", "gvp"), torch.pi / 2 * target("v", "gvp"), atol=1e-12)
