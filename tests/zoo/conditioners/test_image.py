"""A picture's tokens: CLIP's vision tower against transformers itself, patches of a frame, what was encoded beforehand."""

import pytest
import torch

import zoo.conditioners  # noqa: F401
from vidiff.lazy import prepare_torchvision
from vidiff.registry import build
from vidiff.types import Grid

KEEP = torch.zeros(2, dtype=torch.bool)
GRID = Grid(5, 3, 2, 4)


def dice(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def clip(tmp_path):
    """A toy CLIP vision tower in a folder of save_pretrained, its pictures 20x20."""
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[hub]'")
    prepare_torchvision()
    config = transformers.CLIPVisionConfig(
        hidden_size=24, intermediate_size=36, num_hidden_layers=3, num_attention_heads=3, image_size=20, patch_size=5
    )
    torch.manual_seed(0)
    encoder = transformers.CLIPVisionModel(config).eval()
    encoder.save_pretrained(tmp_path)
    return str(tmp_path), encoder


@pytest.mark.parametrize(("layer", "frame"), [(-2, 0), (-1, -1), (1, 2)])
@torch.no_grad()
def test_clip_gives_transformers_own_states(clip, layer, frame):
    folder, encoder = clip
    conditioner = build("conditioner", {"name": "image_clip", "model": folder, "layer": layer, "frame": frame})
    video = torch.randint(256, (2, 3, 4, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = (video[:, :, frame] / 255 - mean[:, None, None]) / std[:, None, None]
    expected = encoder(pixel_values=pixels, output_hidden_states=True).hidden_states[layer]
    found = conditioner({"video": video}, KEEP).image
    assert found.shape == (2, 17, 24) and conditioner.spec.image == 24
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(conditioner({"video": video}, ~KEEP).image, torch.zeros_like(found))


def test_clip_scales_the_whole_frame_as_its_own_processor(clip):
    """A square frame of another size; pillow rounds its sums to bytes, ours stay numbers: two grey levels."""
    transformers = pytest.importorskip("transformers")
    conditioner = build("conditioner", {"name": "image_clip", "model": clip[0]})
    smooth = torch.linspace(0, 255, 48)[:, None] * torch.linspace(0.2, 1, 48)
    video = smooth.to(torch.uint8).expand(2, 3, 1, 48, 48)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20})
    expected = processor(images=list(video[:, :, 0].permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"]
    assert torch.allclose(conditioner.pixels(video), expected, rtol=0, atol=2 / 255 / 0.26)
    grey = video[:, :1]
    assert torch.equal(conditioner.pixels(grey), conditioner.pixels(video))


def test_clip_is_frozen_and_no_part_of_the_model(clip):
    conditioner = build("conditioner", {"name": "image_clip", "model": clip[0]})
    assert not list(conditioner.parameters()) and not conditioner.state_dict()
    assert conditioner({"video": dice(2, 3, 1, 9, 9)}, KEEP.to("meta")).image.shape == (2, 17, 24)


def test_what_clip_refuses(clip, tmp_path):
    with pytest.raises(ValueError, match="layer=9 of 3 layers"):
        build("conditioner", {"name": "image_clip", "model": clip[0], "layer": 9})
    conditioner = build("conditioner", {"name": "image_clip", "model": clip[0], "frame": 4})
    with pytest.raises(ValueError, match="frame 4 of a video of 3 frames"):
        conditioner({"video": dice(2, 3, 3, 9, 9)}, KEEP)
    with pytest.raises(ValueError, match="4 channels: CLIP looks at grey or colour"):
        conditioner({"video": dice(2, 4, 5, 9, 9)}, KEEP)


def patches(**settings):
    torch.manual_seed(0)
    return build("conditioner", {"name": "image_patches", **settings}, width=14, grid=GRID)


def test_patches_are_the_cells_of_their_frame_alone():
    latent, conditioner = dice(2, *GRID), patches(frame=1)
    found = conditioner({"latent": latent}, KEEP).image
    assert found.shape == (2, 8, 14) and conditioner.spec.image == 14
    for frame in range(3):
        other = latent.clone()
        other[:, :, frame, 1, 2] += 1.0
        moved = (conditioner({"latent": other}, KEEP).image - found).abs().amax(dim=(0, 2)) > 0
        assert moved.nonzero().flatten().tolist() == ([6] if frame == 1 else [])


def test_patches_tell_places_apart_on_any_grid():
    same = torch.ones(2, 5, 1, 6, 3)
    found = patches()({"latent": same}, KEEP).image[0]
    assert len(found.unique(dim=0)) == 18
    assert torch.equal(*patches()({"latent": dice(2, *GRID)}, ~KEEP).image)
    with pytest.raises(ValueError, match="frame=3 of a latent of 3: use -3 to 2"):
        patches(frame=3)


def test_what_was_encoded_beforehand_is_passed_on():
    tokens, beside = dice(2, 6, 14), dice(2, 4, *GRID[1:])
    image = build("conditioner", {"name": "image_embeddings", "dim": 14, "places": 6})
    channels = build("conditioner", {"name": "latent_beside", "channels": 4}, grid=GRID)
    one = torch.tensor([True, False])
    assert torch.equal(image({"image_tokens": tokens}, one).image, tokens * torch.tensor([0.0, 1.0])[:, None, None])
    assert torch.equal(channels({"latent_beside": beside}, one).channels[1], beside[1])
    assert not channels({"latent_beside": beside}, one).channels[0].any()
    with pytest.raises(ValueError, match=r"image_tokens are \(5, 14\), and places and dim say \(6, 14\)"):
        image({"image_tokens": tokens[:, 1:]}, one)
    with pytest.raises(ValueError, match="has 3 channels, and channels says 4"):
        channels({"latent_beside": beside[:, 1:]}, one)


def test_several_pass_on_what_one_of_them_says_in_its_own_width():
    """A text of 10 and a picture of 14 meet a network of 32: nothing is widened, two texts of 10 and 12 are."""
    wiring = dict(width=32, grid=GRID)
    text, image = (
        {"name": "text_embeddings", "dim": 10, "length": 5},
        {"name": "image_embeddings", "dim": 14, "places": 6},
    )
    both = build("conditioner", {"name": "several", "parts": [text, image]}, **wiring)
    batch = {"text_tokens": dice(2, 5, 10), "image_tokens": dice(2, 6, 14)}
    cond = both(batch, KEEP)
    assert (both.spec.tokens, both.spec.image, both.spec.length) == (10, 14, 5) and not list(both.parameters())
    assert torch.equal(cond.tokens, batch["text_tokens"]) and torch.equal(cond.image, batch["image_tokens"])
    assert both.also == {"text_mask"} and both.entries == {"image_tokens": (6, 14)}
    two = build("conditioner", {"name": "several", "parts": [image, "image_patches"]}, **wiring)
    cond = two({**batch, "latent": dice(2, *GRID)}, KEEP)
    assert two.spec.image == 32 and cond.image.shape == (2, 14, 32)
