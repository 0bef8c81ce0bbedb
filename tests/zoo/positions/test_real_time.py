"""Places in time by the clock: a second is as far in every clip, whatever its rate; each sample of a batch has its own."""

import pytest
import torch
import yaml

import zoo  # noqa: F401
from vidiff.building import build_diffuser, plan
from vidiff.config import ConfigError, load
from vidiff.random import Random
from vidiff.registry import BACKBONES, DATASETS, build
from vidiff.types import Cond, CondSpec, Grid
from zoo.layers.embeddings import coordinates
from zoo.layers.transformer import Placing, along

CPU = torch.device("cpu")
PLACED = ["dit_joint", "dit_cross", "dit_factorized", "mmdit", "uvit", "dit_expert"]
"""Backbones that have positions."""


def made(name="rotary", axes="thw", **settings):
    wiring = dict(dim=48, head_dim=24, grid=Grid(6, 4, 3, 5), axes=axes)
    return build("positions", {"name": name, "base_fps": 8.0, **settings}, **wiring)


def placed(fps, grid):
    """Places (B,N,3) of clips of these rates, base 8."""
    index = coordinates(grid[1:], CPU).flatten(0, 2)
    return torch.stack([index * torch.tensor([8.0 / rate, 1.0, 1.0]) for rate in fps])


@pytest.mark.parametrize("name", ["rotary", "rotary_fractional"])
@pytest.mark.parametrize("axes", ["thw", "t"])
def test_twice_the_rate_is_turned_at_every_second_frame_as_the_base_rate_at_every_frame(name, axes):
    """8 frames at 16 a second last as long as 4 at 8: the even frames of the one are the frames of the other."""
    fast, slow = Grid(6, 8, 3, 5), Grid(6, 4, 3, 5)
    of_fast = Placing(made(name, axes), axes, fast, CPU, placed([16.0], fast)).rotation
    of_slow = Placing(made(name, axes), axes, slow, CPU).rotation
    places = 15 if axes == "thw" else 1
    for a, b in zip(of_fast, of_slow, strict=True):
        assert torch.equal(a[0].unflatten(0, (8, places))[::2].flatten(0, 1), b)
        assert not torch.allclose(a[0].unflatten(0, (8, places))[:4].flatten(0, 1), b, atol=1e-2)


def test_sinusoids_go_by_the_clock_too():
    fast, slow = Grid(6, 8, 3, 5), Grid(6, 4, 3, 5)
    zeros = torch.zeros(1, 8, 15, 48)
    added = Placing(made("sincos"), "thw", fast, CPU, placed([16.0], fast)).add(zeros)
    assert torch.equal(added[:, ::2], Placing(made("sincos"), "thw", slow, CPU).add(zeros[:, ::2]))


def test_samples_have_places_of_their_own_in_one_batch():
    grid = Grid(6, 4, 3, 5)
    together = Placing(made(), "thw", grid, CPU, placed([8.0, 16.0, 5.0], grid)).rotation
    for i, fps in enumerate([8.0, 16.0, 5.0]):
        alone = Placing(made(), "thw", grid, CPU, placed([fps], grid)).rotation
        assert torch.equal(together[0][i], alone[0][0]) and torch.equal(together[1][i], alone[1][0])
    assert not torch.allclose(together[0][0], together[0][1], atol=1e-2)
    assert along(placed([8.0, 16.0], grid), "t", grid).squeeze(-1).tolist() == [[0, 1, 2, 3], [0, 0.5, 1, 1.5]]


def test_places_for_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"coords are \(60, 3\) a sample, and 6x5x3x5 has 75 tokens"):
        Placing(made(), "thw", Grid(6, 5, 3, 5), CPU, placed([8.0], Grid(6, 4, 3, 5)))


def network(name, positions="rotary", **settings):
    grid, tokens = Grid(6, 4, 3, 5), "tokens" in BACKBONES[name].target.uses
    node = {"name": positions, "base_fps": 8.0}
    wiring = dict(
        grid=grid, out_channels=7, cond=CondSpec(tokens=10, length=3) if tokens else CondSpec(),
        attention=build("attention", "math"), positions=lambda **w: build("positions", node, **w),
    )  # fmt: skip
    torch.manual_seed(0)
    net = BACKBONES[name].build({**BACKBONES[name].tiny, **settings}, **wiring).double().eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net, grid, torch.randn(2, 3, 10).double() if tokens else None


FACTORIZED = [("dit_factorized", {"plan": plan, "depth": 6}) for plan in
              ("interleaved", "late_fusion", "sequential", "split_heads", "axial", "windowed", "strided")]  # fmt: skip
NETS = [
    *((name, {}) for name in PLACED if name != "dit_factorized"),
    ("dit_cross", {"layout": "factorized"}),
    *FACTORIZED,
]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "settings"), NETS, ids=lambda x: x if isinstance(x, str) else "-".join(map(str, x.values()))
)
def test_every_backbone_turns_each_sample_by_its_own_clock(name, settings):
    net, grid, tokens = network(name, **settings)
    x, time = torch.randn(2, *grid).double(), torch.tensor([0.3, 0.8])

    def ask(fps, rows=slice(None)):
        coords = None if fps is None else placed(fps, grid)
        return net(x[rows], time[rows], Cond(tokens=None if tokens is None else tokens[rows], coords=coords))

    plain, mixed = ask(None), ask([8.0, 20.0])
    assert torch.equal(ask([8.0, 8.0]), plain), "the base rate is the frame's number, in bits"
    assert torch.allclose(mixed[:1], ask([8.0], slice(0, 1)), atol=1e-9)
    assert torch.allclose(mixed[1:], ask([20.0], slice(1, 2)), atol=1e-9)
    assert torch.allclose(mixed[0], plain[0], atol=1e-9) and not torch.allclose(mixed[1], plain[1], atol=1e-5)


# ---- from the data to the network ----


class Rates:
    """Clips of two rates; without them when told so."""

    shape, num_classes = (1, 4, 8, 16), 3

    def __init__(self, told: bool = True, *, seed: int, split: str):
        self.told = told

    def __len__(self):
        return 6

    def __getitem__(self, i):
        video = torch.full(self.shape, i, dtype=torch.uint8)
        return {"video": video, "label": i % 3} | ({"fps": 8.0 * (1 + i % 2)} if self.told else {})


@pytest.fixture(autouse=True)
def rates():
    DATASETS.register("rates")(Rates)
    yield
    DATASETS.remove("rates")


def planned(tmp_path, **nodes):
    tree = {
        "data": "rates", "tokenizer": {"name": "tubelet", "size": [2, 4, 4]}, "conditioner": "label",
        "backbone": {"name": "dit_joint", "dim": 48, "depth": 1, "num_heads": 2},
        "positions": {"name": "rotary", "base_fps": 8.0}, "sampler": {"name": "euler", "steps": 2}, **nodes,
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    return plan(load(tmp_path / "r.yaml"))


def test_the_rate_of_a_clip_reaches_the_network_dropped_or_not(tmp_path):
    made = planned(tmp_path)
    diffuser = build_diffuser(made.config, made.dataset)
    batch = {"fps": torch.tensor([8.0, 16.0]), "label": torch.tensor([0, 1]), "latent": torch.zeros(2, *made.grid)}
    cond, uncond = diffuser.conditions(batch, 2)
    expected = placed([8.0, 16.0], made.grid)
    assert torch.equal(cond.coords, expected) and torch.equal(uncond.coords, expected), "geometry is not guided"
    assert "fps" in diffuser.reads and cond.coords[1, -1].tolist() == [0.5, 1.0, 3.0]


def test_it_trains_and_draws_at_the_rates_asked_for(tmp_path):
    made = planned(tmp_path, guidance={"name": "cfg", "scale": 2.0})
    diffuser = build_diffuser(made.config, made.dataset)
    torch.nn.init.normal_(diffuser.backbone.head.linear.weight)
    for block in diffuser.backbone.blocks:
        torch.nn.init.normal_(block.adaln.linear.weight, std=0.5)
    items = [made.dataset[i] for i in range(2)]
    batch = {k: torch.stack([torch.as_tensor(item[k]) for item in items]) for k in ("video", "label", "fps")}
    assert diffuser(batch, Random(0, rows=range(2)))["loss"].isfinite()

    def drawn(fps):
        given = {"label": torch.tensor([1, 1]), "fps": torch.tensor(fps)}
        return diffuser.eval().sample(made.grid, made.sampler, made.guidance, Random(0, rows=range(2)), given)

    base, fast = drawn([8.0, 8.0]), drawn([8.0, 16.0])
    assert torch.allclose(base[0], fast[0], atol=1e-5) and not torch.allclose(base[1], fast[1], atol=1e-3)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({"data": {"name": "rates", "told": False}}, "it reads 'fps'"),
        ({"positions": {"name": "rotary", "base_fps": 8.0, "longer": "ntk"}}, "longer=ntk counts frames"),
        ({"backbone": {"name": "unet3d", "dim": 16}}, "has no place for positions.base_fps"),
        ({"positions": {"name": "learned", "base_fps": 8.0}}, "base_fps"),
    ],
)
def test_what_cannot_be_is_refused_when_the_configuration_is_read(tmp_path, nodes, words):
    with pytest.raises(ConfigError, match=words):
        planned(tmp_path, **nodes)
