"""Paths through a table of betas."""

import pytest
import torch

from vidiff.diffusion.table import BetaTable

BETAS = torch.tensor([0.01, 0.2, 0.05, 0.4, 0.3, 0.6, 0.11], dtype=torch.float64)
ENTRIES = torch.arange(1, 8, dtype=torch.float64) / 7


def test_meets_the_discrete_chain_at_its_times():
    table, product = BetaTable(BETAS), torch.cumprod(1 - BETAS, 0)
    assert torch.allclose(table.alphas_cumprod, product, rtol=1e-14)
    assert torch.allclose(table.alpha(ENTRIES) ** 2, product, rtol=1e-13)
    assert torch.allclose(table.sigma(ENTRIES) ** 2, 1 - product, rtol=1e-13)
    assert torch.allclose(table.label(ENTRIES) * 7, torch.arange(7.0, dtype=torch.float64), atol=1e-12)


def test_between_entries_log_alphas_cumprod_is_linear():
    table, log = BetaTable(BETAS), torch.cat([torch.zeros(1), torch.cumsum(torch.log1p(-BETAS), 0)])
    halfway = ENTRIES - 0.5 / 7
    assert torch.allclose(2 * table.alpha(halfway).log(), (log[1:] + log[:-1]) / 2, rtol=1e-12)
    assert torch.allclose(table.beta(halfway), -7 * torch.log1p(-BETAS), rtol=1e-12)


def test_the_beta_at_an_entry_is_that_of_the_step_that_leads_to_it():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)[1:]
    assert ((1000 * t).ceil() != torch.arange(1, 1001)).sum() > 10  # rounding takes some of them past their entry
    assert torch.allclose(BetaTable(betas).beta(t), -1000 * torch.log1p(-betas), rtol=1e-9)


def test_inverse_at_and_between_entries():
    table = BetaTable(BETAS)
    t = torch.cat([torch.linspace(0, 1, 1001, dtype=torch.float64), ENTRIES])
    assert torch.allclose(table.time(table.logsnr(t)), t, atol=1e-12)
    assert table.time(table.logsnr(t.reshape(-1, 14))).shape == (72, 14)


def test_a_last_beta_of_one_ends_in_pure_noise_with_alpha_falling_linearly():
    betas = torch.tensor([0.01, 0.2, 0.05, 0.4, 1.0], dtype=torch.float64)
    table, product = BetaTable(betas), torch.cumprod(1 - betas, 0)
    t = torch.arange(1, 6, dtype=torch.float64) / 5
    assert torch.equal(table.alphas_cumprod[-1:], torch.zeros(1, dtype=torch.float64))
    assert torch.allclose(table.alpha(t) ** 2, product, rtol=1e-13) and table.alpha(t)[-1] == 0
    assert table.logsnr(t)[-1] == -float("inf") and table.sigma(t)[-1] == 1
    last = torch.tensor([0.81, 0.9, 0.99, 1.0], dtype=torch.float64)
    assert torch.allclose(table.alpha(last), product[-2].sqrt() * 5 * (1 - last), rtol=1e-9)
    assert torch.allclose(table.alpha_dot(last), -5 * product[-2].sqrt().expand(4))
    assert torch.allclose(table.sigma_dot(last), 25 * product[-2] * (1 - last) / table.sigma(last))
    assert torch.allclose(table.time(table.logsnr(last)), last, atol=1e-12)
    inside = last[:3].clone().requires_grad_()
    for value, slope in (
        (table.alpha, table.alpha_dot),
        (table.sigma, table.sigma_dot),
        (table.logsnr, table.logsnr_dot),
    ):
        (exact,) = torch.autograd.grad(value(inside).sum(), inside)
        assert torch.allclose(slope(last[:3]), exact, rtol=1e-9)


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 1.5])
def test_refuses_a_beta_that_is_none(bad):
    with pytest.raises(ValueError, match=rf"a beta of {bad:g} in a table of 3 timesteps: .* Use more timesteps"):
        BetaTable(torch.tensor([0.1, bad, 0.2]))
