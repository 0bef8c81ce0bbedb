"""timm's image models as encoders: weights from a local file only, and never silently others."""

import pytest
import torch
from safetensors.torch import save_file

import zoo  # noqa: F401
from vidiff.registry import build

SHAPE = (3, 4, 16, 24)
TINY = {"name": "timm", "model": "test_vit", "size": 32}


def made(weights="random", training=True, **settings):
    return build("encoder", {**TINY, "weights": str(weights), **settings}, shape=SHAPE, training=training)


def video():
    return torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The weights of a test_vit, as a file someone downloaded."""
    net = made().load()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05)
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file({**net.state_dict(), "head.weight": torch.zeros(5, 7), "head.bias": torch.zeros(5)}, path)
    return path


def test_weights_come_from_the_file(file):
    features = made(file)(video())
    assert features.shape == (2, made().dim, 4, 2, 2)
    assert not torch.allclose(features, made()(video()), atol=1e-3)


def test_weights_of_another_model_are_refused(file, tmp_path):
    with pytest.raises(ValueError, match="another model's"):
        made(file, model="test_vit2")(video())
    (tmp_path / "junk.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(ValueError, match="cannot be read"):
        made(tmp_path / "junk.safetensors")(video())


def test_a_missing_file_and_an_unknown_model_are_one_line_with_the_remedy():
    with pytest.raises(ValueError, match="nothing is downloaded"):
        made("")
    made("", training=False)  # drawing needs no encoder
    with pytest.raises(ValueError, match="Did you mean 'test_vit'"):
        made(model="test_vitt")


def test_grey_videos_and_maps_of_convolutional_models():
    grey = build("encoder", {**TINY, "weights": "random"}, shape=(1, *SHAPE[1:]))
    assert grey(video()[:, :1]).shape == (2, grey.dim, 4, 2, 2)
    conv = made(model="test_resnet")
    assert conv(video()).shape == (2, conv.dim, 4, 1, 1)
