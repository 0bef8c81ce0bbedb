"""What every registered encoder promises: a frozen view of a clean video, a grid of features."""

import pytest
import torch

import zoo  # noqa: F401
from vidiff.registry import ENCODERS

SHAPE = (3, 4, 16, 24)


@pytest.fixture(params=ENCODERS.names())
def encoder(request):
    return ENCODERS[request.param].build(ENCODERS[request.param].tiny, shape=SHAPE)


def video(num=2, seed=1):
    return torch.rand(num, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_features_are_a_grid_of_its_width(encoder):
    features = encoder(video())
    assert features.ndim == 5 and features.shape[:2] == (2, encoder.dim)
    assert features.shape[2] in (2, 4) and min(features.shape[3:]) >= 1
    assert features.dtype == torch.float32 and features.isfinite().all() and not features.requires_grad


def test_it_is_a_function_of_each_video_alone_and_throws_no_dice(encoder):
    encoder(video())  # what is loaded late is loaded now
    before, clips = torch.get_rng_state(), video(3)
    whole = encoder(clips)
    assert torch.allclose(encoder(clips[1:2]), whole[1:2], atol=1e-5) and torch.equal(encoder(clips), whole)
    assert torch.equal(torch.get_rng_state(), before)


def test_features_depend_on_every_frame_and_tell_videos_apart(encoder):
    clips = video()
    whole = encoder(clips)
    for frame in range(SHAPE[1]):
        other = clips.clone()
        other[:, :, frame] = video(seed=2)[:, :, frame]
        assert (encoder(other) - whole).abs().max() > 1e-4, frame
    unit = torch.nn.functional.normalize(whole.flatten(2), dim=1)
    assert (unit[0] * unit[1]).sum(0).mean() < 0.99


def test_a_video_of_one_grey_is_finite(encoder):
    assert encoder(torch.zeros(1, *SHAPE)).isfinite().all()


def test_it_is_built_anew_alike(encoder, request):
    component = ENCODERS[request.node.callspec.params["encoder"]]
    again = component.build(component.tiny, shape=SHAPE)
    assert torch.equal(again(video()), encoder(video()))
