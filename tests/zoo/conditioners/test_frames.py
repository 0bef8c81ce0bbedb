"""Known frames: which are shown, where the mask says so, and nothing of the others."""

import pytest
import torch

import zoo.conditioners  # noqa: F401
from vidiff.registry import build
from vidiff.types import Grid

GRID = Grid(3, 5, 2, 4)
KEEP = torch.tensor([False, False])


def frames(**settings):
    torch.manual_seed(0)
    return build("conditioner", {"name": "frames", **settings}, width=20, grid=GRID)


def latent(seed=0, grid=GRID):
    return torch.randn(2, *grid, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("numbers", "known"), [([0], [0]), ([-1], [4]), ([0, -1], [0, 4]), ([1, 3, -2], [1, 3])])
def test_channels_hold_the_known_latents_and_their_mask(numbers, known):
    z = latent()
    channels = frames(frames=numbers)({"latent": z}, KEEP).channels
    for t in range(GRID.t):
        inside = t in known
        assert torch.equal(channels[:, :3, t], z[:, :, t] if inside else torch.zeros_like(z[:, :, t]))
        assert (channels[:, 3, t] == float(inside)).all()


@pytest.mark.parametrize("route", ["channels", "tokens"])
def test_frames_that_are_not_known_do_not_leak(route):
    conditioner, z, other = frames(frames=[0, -1], route=route), latent(), latent(seed=1)
    other[:, :, [0, 4]] = z[:, :, [0, 4]]
    a, b = (getattr(conditioner({"latent": x}, KEEP), route) for x in (z, other))
    assert torch.equal(a, b)
    other[:, :, 4] += 1
    assert not torch.equal(getattr(conditioner({"latent": other}, KEEP), route), a)


def test_any_mask_for_each_sample():
    known = torch.tensor([[True, False, True, False, False], [False, True, True, True, False]])
    z = latent()
    channels = frames()({"latent": z, "known": known}, KEEP).channels
    assert torch.equal(channels[:, 3, :, 1, 2].bool(), known)
    cond = frames(route="tokens")({"latent": z, "known": known}, KEEP)
    assert cond.tokens.shape == (2, 5 * 2 * 4, 20) and torch.equal(cond.mask, known.repeat_interleave(8, dim=1))


def test_dropped_is_nothing_known():
    z = latent()
    assert (frames()({"latent": z}, ~KEEP).channels == 0).all()
    conditioner = frames(route="tokens")
    tokens = conditioner({"latent": z}, ~KEEP).tokens
    assert torch.equal(tokens, conditioner.null.expand_as(tokens))


def test_tokens_know_their_places():
    tokens = frames(frames=[0, 2], route="tokens")({"latent": torch.zeros(2, *GRID)}, KEEP).tokens[0]
    assert tokens.shape == (2 * 2 * 4, 20)
    assert (torch.cdist(tokens, tokens) + 9 * torch.eye(16)).min() > 0.1


def test_another_grid_than_that_of_training():
    assert frames(frames=[-1])({"latent": latent(grid=Grid(3, 7, 4, 2))}, KEEP).channels[0, 3, :, 0, 0].tolist() == [
        0
    ] * 6 + [1]


def test_a_frame_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"frames=\[0, 5\] of a latent of 5: use numbers from -5 to 4"):
        frames(frames=[0, 5])
