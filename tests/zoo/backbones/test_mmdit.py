"""Two streams, and one sequence with two modulations: what is joined, what is shared, refusals."""

from functools import partial

import pytest
import torch

import zoo  # noqa: F401
from vidiff.building import plan
from vidiff.config import ConfigError, load
from vidiff.registry import build
from vidiff.types import Cond, CondSpec, Grid

GRID = Grid(5, 3, 4, 2)
NAMES = ["mmdit", "dit_expert"]

YAML = """\
data: {name: moving_digits, size: 16, frames: 4, digits: 1, digit_size: 8}
tokenizer: {name: tubelet, size: [2, 4, 8]}
backbone: {name: NAME, dim: 48, depth: 2, num_heads: 2}
"""


def make(name, depth=2, positions="sincos", attention="math"):
    net = build(
        "backbone", {"name": name, "dim": 48, "depth": depth, "num_heads": 3}, grid=GRID, out_channels=7,
        cond=CondSpec(tokens=6), attention=build("attention", attention),
        positions=partial(build, "positions", positions),
    )  # fmt: skip
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=random))
    return net.eval()


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_text_hears_the_video(name):
    """Joint attention goes both ways: what the last block is told of the text depends on the video."""
    net, seen = make(name, depth=3), []
    net.blocks[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    for seed in (1, 2):
        net(draw(1, *GRID, seed=seed), torch.tensor([0.3]), Cond(tokens=draw(1, 4, 6)))
    assert (seen[0] - seen[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_order_of_the_text_is_for_its_encoder_to_tell(name):
    """No position is told of the text's tokens: their order changes nothing, with rotary positions too."""
    net, text = make(name, positions="rotary"), draw(1, 4, 6)
    x, time = draw(1, *GRID), torch.tensor([0.3])
    y = net(x, time, Cond(tokens=text))
    assert torch.allclose(net(x, time, Cond(tokens=text[:, [2, 0, 3, 1]])), y, atol=1e-5)
    assert not torch.allclose(net(x.flip(3), time, Cond(tokens=text)).flip(3), y, atol=1e-3)


def test_streams_of_sd3_share_nothing_and_those_of_cogvideox_everything_but_modulation():
    def parameters(module):
        return sum(p.numel() for p in module.parameters())

    dim = 48
    block = make("mmdit").blocks[0]
    stream = (
        (6 * dim + 4 * dim + 8 * dim) * dim + (6 + 4 + 5) * dim + 2 * 16
    )  # modulation, attention, MLP; biases; gains
    assert parameters(block.video) == parameters(block.text) == stream
    expert = make("dit_expert").blocks[0]
    shared = 12 * dim * dim + 9 * dim + 2 * 2 * 16 + 2 * 2 * dim  # attention, MLP, their biases, gains of q k, of norms
    assert parameters(expert) == shared + 2 * 6 * dim * (512 + 1)


@pytest.mark.parametrize("name", NAMES)
def test_without_text_both_parties_are_named(name, tmp_path):
    (tmp_path / "t.yaml").write_text(YAML.replace("NAME", name))
    with pytest.raises(ConfigError, match=rf"backbone {name}: it needs tokens, and conditioner none gives nothing"):
        plan(load(tmp_path / "t.yaml"))
    with pytest.raises(ConfigError, match=r"conditioner label gives vector. Use conditioner text_bytes"):
        plan(load(tmp_path / "t.yaml", ["conditioner=label"]))
    made = plan(load(tmp_path / "t.yaml", ["conditioner=text_bytes"]))
    assert made.diffuser.conditioner.spec.provides == {"vector", "tokens"}


@pytest.mark.parametrize("name", NAMES)
def test_an_attention_of_neighbours_is_refused(name):
    with pytest.raises(ValueError, match="attention Window is local"):
        make(name, attention={"name": "window", "radius": 3}).check(GRID)
