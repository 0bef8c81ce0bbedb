"""Every published family through the command: its own words of x0 and time, every sampler, and the same bits back.

Integer steps of a table, t from noise to data, sigma times 1000: whatever a family counts in, a converted model
believes what the official parameterisation makes of the official answer.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file

import zoo  # noqa: F401
from tests.parity.networks import DATA, read
from vidiff.building import Plan, build_diffuser, plan
from vidiff.commands import convert
from vidiff.config import load
from vidiff.diffuser import Diffuser
from vidiff.diffusion.transfer import transfer
from vidiff.engine.runs import find_checkpoint, load_weights
from vidiff.random import Random
from vidiff.registry import CONVERTERS, SAMPLERS, build
from vidiff.types import Cond, rows_of

ABAR = load_file(DATA / "schedules" / "alphas_cumprod_T1000.safetensors")


class Family(NamedTuple):
    """A fixture, what is told on the command line, and how the official code counts and answers."""

    fixture: str
    words: str
    answer: str
    """eps or v on a table; flow: noise - x0 at 1000 sigma; data: x0 - noise at t from noise to data."""
    table: str = ""
    ours: Callable = lambda z, c: z[:, :c]
    """Their tensor and the number of video channels -> (B,C,T,H,W); learned variances stand behind."""


def still(z, c):
    """(B,C,H,W)."""
    return z[:, :c, None]


def frames_first(z, c):
    """(B,T,C,H,W)."""
    return z[:, :, :c].transpose(1, 2)


def packed(z, c):
    """(B,N,C) of the fixture's 2x3x3 tokens."""
    return rearrange(z, "b (t h w) c -> b c t h w", t=2, h=3)


FAMILIES = {
    "dit": Family("dit_a", "num_heads=4 num_classes=10", "eps", "00", still),
    "sit": Family("sit_a", "num_heads=4 num_classes=10", "data", "", still),
    "latte": Family("latte_uncond_a", "num_heads=4", "eps", "00", frames_first),
    "nano_sora": Family("nanosora_a", "num_heads=4 sizes=[2,4,4]", "data"),
    "unet3d": Family("unet3d_b", "sizes=[5,8,8]", "eps", "06"),
    "diffusers_latte": Family("diffusers_latte_a", "num_heads=4 sizes=[4,4,4] length=5", "eps", "00"),
    "ltx": Family("diffusers_ltx_c", "num_heads=2 sizes=[2,3,3] length=4 cell=[1.0,32.0,32.0]", "flow", "", packed),
    "wan": Family("diffusers_wan_a", "num_heads=4 sizes=[3,2,3] length=5", "flow"),
    "wan_i2v": Family("diffusers_wan_i2v", "num_heads=2 sizes=[2,2,2] length=512 places=5", "flow"),
    "cogvideox": Family("diffusers_cogvideox_rope", "num_heads=4 sizes=[3,4,6] length=5", "v", "16", frames_first),
    "cogvideox_2b": Family("diffusers_cogvideox_sincos", "num_heads=4 sizes=[3,4,4] length=6 rotary=false", "v", "17",
                           frames_first),
    "cogvideox_15": Family("diffusers_cogvideox15_rope", "num_heads=4 sizes=[2,4,2] length=5", "v", "16", frames_first),
}  # fmt: skip

NAMES = {"wan_i2v": "wan", "cogvideox_2b": "cogvideox", "cogvideox_15": "cogvideox"}
"""A second fixture of a family."""


class Converted(NamedTuple):
    """A run folder, what is in it, the official state dict, and what the fixture holds."""

    run: object
    made: Plan
    diffuser: Diffuser
    state: dict
    tensors: dict


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """run_of(name) -> the fixture through the command, once."""
    done = {}

    def get(name):
        if name not in done:
            family, folder = FAMILIES[name], tmp_path_factory.mktemp(name)
            tensors, state, _ = read("models", family.fixture)
            save_file(state, str(folder / "official.safetensors"))
            words = [str(folder / "official.safetensors"), *family.words.split(), "--family", NAMES.get(name, name)]
            assert convert.main([*words, "--out", str(folder / "run"), "--quiet"]) == 0
            done[name] = Converted(folder / "run", *opened(folder / "run"), state, tensors)
        return done[name]

    return get


def opened(run):
    """The plan and the diffuser of a converted run."""
    made = plan(load(run / "config.yaml"), training=False)
    diffuser = build_diffuser(made.config, made.dataset).eval()
    load_weights(diffuser, find_checkpoint(run)[1], "ema")
    return made, diffuser


def test_every_family_is_here():
    assert {NAMES.get(name, name) for name in FAMILIES} == set(CONVERTERS.names())


# ---- what is believed ----


class Question(NamedTuple):
    """The fixture's x in latents, our time of it, its condition, and the x0 and scale of the official answer."""

    x: torch.Tensor
    t: torch.Tensor
    cond: Cond
    x0: torch.Tensor
    scale: torch.Tensor


def question(converted, family):
    """What the fixture asked the official network, in our words."""
    made, diffuser, tensors = converted.made, converted.diffuser, converted.tensors
    x, official, y = (next(tensors[k] for k in keys if k in tensors) for keys in
                      (("in.x", "in.hidden_states"), ("in.t", "in.timestep"), ("out.video", "out.forward")))  # fmt: skip
    batch = {ours: tensors[theirs] for ours, theirs in ENTRIES.items() if theirs in tensors}
    channels, official = made.dataset.shape[0], official.double()
    if "latent_beside" in diffuser.reads:
        batch["latent_beside"] = diffuser.tokenizer.encode(x[:, channels:])
    x, y = (diffuser.tokenizer.encode(family.ours(z, channels)) for z in (x, y))
    t = {"data": 1 - official, "flow": official / 1000}.get(family.answer, (official + 1) / 1000)
    path, cond = diffuser.objective.path, diffuser.conditioner(batch, torch.zeros(len(x), dtype=torch.bool))
    far = path.sigma(t) / path.alpha(t) if family.answer == "eps" else torch.ones_like(t)
    scale = far.clamp(min=1.0).reshape(-1, 1, 1, 1, 1) * y.abs().max().clamp(min=1.0)
    return Question(x, t, cond, official_x0(family, x, official, y), scale)


ENTRIES = {"label": "in.y", "text_tokens": "in.encoder_hidden_states", "text_mask": "in.encoder_attention_mask",
           "image_tokens": "in.encoder_hidden_states_image"}  # fmt: skip
"""Entries of a batch -> of a fixture."""


def official_x0(family, x, t, y):
    """x0 of the official answer y at the official time t, in the words of the family's own paper; float64."""
    x, y, t = x.double(), y.double(), t.reshape(-1, 1, 1, 1, 1)
    if family.answer == "data":
        return x + (1 - t) * y
    if family.answer == "flow":
        return x - t / 1000 * y
    abar = ABAR[f"{family.table}/out.alphas_cumprod"][t.long()]
    if family.answer == "v":
        return abar.sqrt() * x - (1 - abar).sqrt() * y
    return (x - (1 - abar).sqrt() * y) / abar.sqrt()


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_it_believes_what_the_official_parameterisation_says(run_of, name):
    """Answers of networks agree to 1e-5, x0 made of noise to sigma/alpha times that."""
    asked, diffuser = question(run_of(name), FAMILIES[name]), run_of(name).diffuser
    found = diffuser.objective.estimate(diffuser.backbone, asked.x, asked.t, asked.cond)
    assert ((found.x0 - asked.x0).abs() <= 1e-5 * asked.scale).all(), ((found.x0 - asked.x0).abs() / asked.scale).max()
    back = diffuser.objective.path.point(found.x0.double(), found.noise.double(), asked.t)
    assert ((back - asked.x).abs() <= 1e-5 * asked.scale).all(), "x0 and noise are those of x"


@pytest.mark.parametrize("path", ["linear", "gvp", "vp", "ve"])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_along_another_path_it_believes_the_same(run_of, name, path):
    """At equal signal-to-noise ratio, x scaled: the official x0 again."""
    asked, diffuser = question(run_of(name), FAMILIES[name]), run_of(name).diffuser
    objective, other = diffuser.objective, build("path", path)
    logsnr, ends = objective.path.logsnr(asked.t), other.logsnr(torch.tensor([1e-6, 1.0], dtype=torch.float64))
    rows = ((logsnr < ends[0]) & (logsnr > ends[1])).nonzero().flatten()
    assert len(rows), "a time of the fixture within the other path"
    s = other.time(logsnr[rows])
    scale = (other.norm(s) / objective.path.norm(asked.t[rows])).reshape(-1, 1, 1, 1, 1)
    moved = transfer(lambda x, t: objective.estimate(diffuser.backbone, x, t, rows_of(asked.cond, rows)),
                     objective.path, other, objective.interval)  # fmt: skip
    found = moved((asked.x[rows] * scale).float(), s)
    assert ((found.x0 - asked.x0[rows]).abs() <= 2e-5 * asked.scale[rows]).all()


# ---- every sampler ----


COARSE = {"dopri5": {"rtol": 0.1, "atol": 0.1}}
"""Random weights make a rough flow: hundreds of evaluations at tolerances of use."""

PAIRS = [
    pytest.param(name, sampler, marks=() if (i + k) % 6 == 0 else pytest.mark.slow, id=f"{name}-{sampler}")
    for i, name in enumerate(FAMILIES)
    for k, sampler in enumerate(SAMPLERS.names())
]
"""By default two families for every sampler and a sixth of the samplers for every family; `-m slow` takes the rest."""


@pytest.mark.parametrize(("name", "sampler"), PAIRS)
@torch.no_grad()
def test_every_sampler_runs_it(run_of, name, sampler):
    """Two videos at once, the second of which is drawn alone to the same numbers."""
    node = {"name": sampler, **SAMPLERS[sampler].tiny, **COARSE.get(sampler, {})}
    made, diffuser, sampler = run_of(name).made, run_of(name).diffuser, build("sampler", node)
    clips = [made.dataset[i] for i in range(2)]
    batch = {key: torch.stack([torch.as_tensor(c[key]) for c in clips]) for key in diffuser.reads | {"video"}}

    def draw(rows):
        part = {key: value[list(rows)] for key, value in batch.items()}
        return diffuser.sample(made.grid, sampler, made.guidance, Random(5, "sample", rows=rows), part)

    both = draw(range(2))
    assert both.shape == (2, *made.dataset.shape) and both.isfinite().all()
    near = 1e-3 if sampler.evaluations else 2e-2  # adaptive steps differ by rounding, each as good as rtol promises
    assert torch.allclose(draw(range(1, 2))[0], both[1], rtol=near, atol=near * both.abs().max().item())


# ---- back ----


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back(run_of, name, tmp_path):
    """The same bits."""
    converted, back = run_of(name), tmp_path / "back.safetensors"
    assert convert.main([str(converted.run), "--to-official", str(back), "--quiet"]) == 0
    state, found = converted.state, load_file(back)
    tables = {"patch_embed.pos_embedding"}  # CogVideoX's positions, computed here
    assert found.keys() - tables == state.keys() - tables
    for key in found.keys() - tables:
        atol = 1e-8 if key.endswith(".freqs") else 0.0
        assert found[key].shape == state[key].shape and torch.allclose(found[key], state[key], rtol=0, atol=atol), key
