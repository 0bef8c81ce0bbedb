"""Cameras: rays of a pinhole by hand, what Pluecker coordinates promise, and poses frame by frame."""

import math

import pytest
import torch

import zoo.conditioners  # noqa: F401
from vidiff.registry import build
from vidiff.types import Grid

GRID = Grid(7, 3, 2, 4)
KEEP = torch.tensor([False])


def camera(route="rays"):
    torch.manual_seed(0)
    return build("conditioner", {"name": "camera", "route": route}, width=10, grid=GRID)


def poses(frames=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    turns = torch.linalg.qr(torch.randn(1, frames, 3, 3, generator=random)).Q
    return torch.cat([turns, torch.randn(1, frames, 3, 1, generator=random)], dim=-1)


def still(frames=6, centre=(0.0, 0.0, 0.0)):
    pose = torch.cat([torch.eye(3), torch.tensor(centre)[:, None]], dim=1)
    return pose.expand(1, frames, 3, 4)


LENS = torch.tensor([[0.8, 1.2, 0.5, 0.4]])


def test_a_still_camera_looks_through_the_middles_of_the_cells():
    rays = camera()({"camera": still(), "intrinsics": LENS}, KEEP).channels
    for row in range(2):
        for column in range(4):
            x, y = ((column + 0.5) / 4 - 0.5) / 0.8, ((row + 0.5) / 2 - 0.4) / 1.2
            length = math.sqrt(x * x + y * y + 1)
            expected = [0, 0, 0, x / length, y / length, 1 / length]
            assert rays[0, :, 1, row, column].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_moment_is_that_of_every_point_on_the_ray():
    pose = poses()
    rays = camera()({"camera": pose, "intrinsics": LENS}, KEEP).channels
    moment, direction = rays[:, :3], rays[:, 3:]
    assert torch.allclose(direction.norm(dim=1), torch.ones(()), atol=1e-6)
    assert (moment * direction).sum(1).abs().max() < 1e-5
    centre = pose[:, [1, 3, 5], :, 3].transpose(1, 2)[..., None, None]  # the frame in the middle of each share
    point = centre + 2.7 * direction
    assert torch.allclose(torch.linalg.cross(point, direction, dim=1), moment, atol=1e-5)


def test_turning_the_world_turns_the_rays():
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5))).Q
    turn = turn * turn.det().sign()  # a rotation, no reflection: the cross product has a hand
    pose = poses()
    before, after = (camera()({"camera": p, "intrinsics": LENS}, KEEP).channels for p in (pose, turn @ pose))
    for part in (slice(0, 3), slice(3, 6)):
        assert torch.allclose(torch.einsum("ij,bjthw->bithw", turn, before[:, part]), after[:, part], atol=1e-5)


@pytest.mark.parametrize(("frames", "middles"), [(6, [1, 3, 5]), (3, [0, 1, 2]), (5, [0, 2, 4])])
def test_a_latent_frame_takes_the_pose_in_its_middle(frames, middles):
    centres = torch.arange(frames).float()
    pose = still(frames).clone()
    pose[0, :, 0, 3] = centres
    moment = camera()({"camera": pose, "intrinsics": LENS}, KEEP).channels
    # (o x d)_y = -o_x d_z
    assert torch.allclose(-moment[0, 1, :, 1, 2] / moment[0, 5, :, 1, 2], centres[middles], atol=1e-5)


def test_no_camera_is_no_ray_and_a_learned_token():
    batch = {"camera": poses(), "intrinsics": LENS}
    assert (camera()(batch, ~KEEP).channels == 0).all()
    tokens = camera("poses")
    assert torch.equal(tokens(batch, ~KEEP).tokens, tokens.null.expand(1, 3, -1))


def test_poses_say_that_they_have_no_mask():
    cond = camera("poses")({"camera": poses(), "intrinsics": LENS}, KEEP)
    assert cond.mask is None and not camera("poses").spec.masked


def test_a_token_per_latent_frame_sees_its_pose_only():
    conditioner, pose = camera("poses"), poses()
    other = pose.clone()
    other[0, 3] = poses(seed=4)[0, 3]
    a, b = (conditioner({"camera": p, "intrinsics": LENS}, KEEP).tokens[0] for p in (pose, other))
    assert [torch.equal(x, y) for x, y in zip(a, b, strict=True)] == [True, False, True]


def test_a_lens_for_every_frame():
    lens = LENS[:, None].repeat(1, 6, 1)
    one, many = (camera()({"camera": poses(), "intrinsics": k}, KEEP).channels for k in (LENS, lens))
    assert torch.equal(one, many)
