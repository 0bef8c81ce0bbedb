"""Tubelets and frame patches: order, errors, and that they are a convolution without its weights."""

import pytest
import torch
from torch.nn import functional as F

import zoo.tokenizers  # noqa: F401
from vidiff.registry import build


def ramp(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def test_channels_are_ordered_as_in_a_conv3d_weight():
    z = build("tokenizer", {"name": "tubelet", "size": [2, 3, 4]}).encode(ramp(1, 2, 4, 9, 8))
    x = ramp(1, 2, 4, 9, 8)
    assert z.shape == (1, 2 * 2 * 3 * 4, 2, 3, 2)
    for c, t, h, w in [(0, 0, 0, 0), (1, 1, 2, 3), (1, 0, 1, 2), (0, 1, 0, 3)]:
        channel = ((c * 2 + t) * 3 + h) * 4 + w
        assert z[0, channel, 1, 2, 1] == x[0, c, 1 * 2 + t, 2 * 3 + h, 1 * 4 + w]


def test_it_is_a_convolution_whose_kernel_is_its_stride():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 4, 6, 10).double(), torch.randn(7, 3, 2, 3, 5).double()
    z = build("tokenizer", {"name": "tubelet", "size": [2, 3, 5]}).encode(x)
    linear = torch.einsum("dk,bkthw->bdthw", weight.flatten(1), z)
    assert torch.allclose(linear, F.conv3d(x, weight, stride=(2, 3, 5)), atol=1e-12)


def test_frame_patch_is_a_tubelet_of_one_frame():
    x = ramp(2, 3, 5, 8, 12)
    patches = build("tokenizer", {"name": "frame_patch", "size": 4}).encode(x)
    assert torch.equal(patches, build("tokenizer", {"name": "tubelet", "size": [1, 4, 4]}).encode(x))
    assert patches.shape == (2, 48, 5, 2, 3)


@pytest.mark.parametrize(
    ("node", "shape", "text"),
    [
        (
            {"name": "tubelet", "size": [3, 4, 4]},
            (1, 16, 32, 32),
            "16 frames of 32x32 do not split into tubelets of 3x4x4: 16 is not divisible by 3. "
            "Use tubelets of 2x4x4, or clips of another size.",
        ),
        (
            {"name": "tubelet", "size": [2, 8, 5]},
            (3, 4, 16, 24),
            "4 frames of 16x24 do not split into tubelets of 2x8x5: 24 is not divisible by 5. "
            "Use tubelets of 2x8x4, or clips of another size.",
        ),
        (
            {"name": "frame_patch", "size": 4},
            (3, 5, 30, 32),
            "5 frames of 30x32 do not split into patches of 1x4x4: 30 is not divisible by 4. "
            "Use patches of 1x2x2, or clips of another size.",
        ),
        (
            {"name": "haar3d", "levels": [1, 3, 2]},
            (3, 7, 12, 28),
            "7 frames of 12x28 do not split into Haar blocks of 2x8x4: 7 is not divisible by 2. "
            "Use Haar blocks of 1x4x4, or clips of another size.",
        ),
    ],
)
def test_a_video_that_does_not_fit_is_refused_with_its_numbers(node, shape, text):
    tokenizer = build("tokenizer", node)
    for refused in (lambda: tokenizer.latent_shape(shape), lambda: tokenizer.encode(torch.zeros(1, *shape))):
        with pytest.raises(ValueError) as error:
            refused()
        assert str(error.value) == text


def test_pixels_are_themselves():
    x = ramp(1, 2, 3, 4, 5)
    assert torch.equal(build("tokenizer", "pixels").encode(x), x)
    assert build("tokenizer", "pixels").latent_shape((2, 3, 4, 5)) == (2, 3, 4, 5)


@pytest.mark.parametrize("node", ["pixels", {"name": "tubelet", "size": [2, 4, 3]}, {"name": "frame_patch", "size": 3}])
def test_patches_are_a_permutation(node):
    x = torch.randn(2, 3, 4, 12, 9, generator=torch.Generator().manual_seed(0))
    tokenizer = build("tokenizer", node)
    z = tokenizer.encode(x)
    assert torch.equal(tokenizer.decode(z), x) and torch.equal(z.flatten().sort().values, x.flatten().sort().values)
