"""Every task against Gaussian videos, whose conditional distributions are known in closed form.

A deterministic sampler is then a linear map of its noise and of what is known. Every pixel is a column of that map: the
scripted dice throw unit vectors, so means and covariances come out exactly, without sampling.
"""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

import zoo  # noqa: F401
from tests.frames import F64, FrameGaussian, autoregressive
from tests.oracle import three
from vidiff.diffusion.estimate import Aiming, Estimate, toward
from vidiff.diffusion.known import noised, pinned, shown_clean
from vidiff.diffusion.noise import PriorRandom
from vidiff.diffusion.task import Canvas, Known, Sampling, known_pixels, staircase
from vidiff.random import Random, generator
from vidiff.registry import OBJECTIVES, SAMPLERS, build
from vidiff.types import VELOCITY, Grid

FRAMES = 5
K = autoregressive(FRAMES)


class Columns:
    """Dice whose d-th throw of (1,1,t,1,P) is the d-th block of the identity, and zero in one last column."""

    def __init__(self, throws, frames=FRAMES):
        self.columns, self.frames, self.thrown, self.random = throws * frames + 1, frames, 0, self
        self.rows = [0]

    def normal(self, shape, dtype=None):
        block = torch.zeros(self.frames, self.columns, dtype=F64)
        block[:, self.thrown * self.frames : (self.thrown + 1) * self.frames] = torch.eye(self.frames, dtype=F64)
        self.thrown += 1
        return block[None, None, :, None]


class Many:
    """Dice for many independent pixels at once."""

    def __init__(self, seed=1):
        self.g, self.random, self.rows = generator(seed, "many"), self, [0]

    def normal(self, shape, dtype=None):
        return torch.randn(shape, generator=self.g, dtype=F64)


def grid_of(pixels, frames=FRAMES):
    return Grid(1, frames, 1, pixels)


def canvas(pixels, frames=FRAMES):
    return Canvas((1, frames, 1, pixels), grid_of(pixels, frames), build("tokenizer", "pixels"))


def sampling(dice, sampler="heun", steps=64, path="linear", pixels=None, covariance=K, **more):
    """A `Sampling` of clips of covariance K with an exact denoiser."""
    node = {"name": sampler} if isinstance(sampler, str) else sampler
    made, path = build("sampler", {**node, "steps": steps}), build("path", path)
    pixels = dice.columns if pixels is None else pixels
    exact = FrameGaussian(covariance).estimate(path)
    times = made.spacing(steps, path, (0.0, 1.0))
    settings = dict(believe=lambda known: exact, framewise=True) | more
    return Sampling(made, path, times, dice, grid_of(pixels, len(covariance)), torch.device("cpu"), **settings)


def take(task, at, latent):
    """Give the task these latents (t,) in every pixel."""
    mask = task.cells[..., :1].expand(at.grid)
    at.known = Known(latent[None, None, :, None, None].expand(1, *at.grid).contiguous(), mask)
    return at


def watch(at, seen):
    """Note every (x, t) that is asked."""
    exact = at.believe(None)
    at.believe = lambda known: lambda x, t: seen.append((x.clone(), t)) or exact(x, t)


def moments(out):
    """The mean (t,) and the covariance (t,t) of a linear map read off its columns."""
    columns = out[0, 0, :, 0]
    mean = columns[:, -1:]
    return mean[:, 0], (columns[:, :-1] - mean) @ (columns[:, :-1] - mean).T


def truth(known, z):
    """The mean and covariance of all frames given those of z that are known."""
    gain, left = FrameGaussian(K).conditional(known)
    mean, covariance = z.clone(), torch.zeros_like(K)
    mean[~known] = gain @ z[known]
    covariance[~known[:, None] & ~known] = left.flatten()
    return mean, covariance


Z = torch.tensor([1.3, 0.4, -0.8, -1.1, 0.6], dtype=F64)
KNOWN = [("first", 2), ("last", 1), ("ends", 1), ("every", 2)]


def errors(task, steps, z=Z, **settings):
    """How far mean and covariance are from the truth, at the most."""
    at = take(task, sampling(Columns(1), steps=steps, **settings), z)
    mean, covariance = moments(task(at))
    true_mean, true_covariance = truth(task.cells[0, :, 0, 0], z)
    return (mean - true_mean).abs().max().item(), (covariance - true_covariance).abs().max().item()


# ---- conditioning: exact, to the order of the sampler ----


@pytest.mark.parametrize("path", ["linear", "cosine", "ve"])
@pytest.mark.parametrize(("frames", "count"), KNOWN)
def test_conditioning_reaches_the_conditional_distribution(frames, count, path):
    task = build("task", {"name": "conditioning", "frames": frames, "count": count}, canvas=canvas(6))
    spacing = {"name": "heun", "spacing": "karras"} if path == "ve" else "heun"
    rough, fine = (errors(task, steps, path=path, sampler=spacing) for steps in (64, 128))
    assert max(fine) < 0.01  # on `ve` the start leaves the mean out, which is 1/80 of the noise
    if path == "linear":
        assert fine[0] < 1e-12 and 2 ** (2 - 0.25) < rough[1] / fine[1] < 2 ** (2 + 0.6)


OTHERS = {"consistency", "jump", "clipped"}
"""Samplers for another kind of network, or for data of another range."""


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS.names()) - OTHERS))
@pytest.mark.parametrize("name", ["conditioning", "replacement"])
def test_every_sampler_keeps_what_is_known_and_fills_the_rest(sampler, name):
    """Known frames stay to the bit; with conditioning, 4,000 pixels have the conditional mean and deviation."""
    pixels = 4000
    task = build("task", {"name": name, "frames": "first", "count": 2}, canvas=canvas(pixels))
    at = take(task, sampling(Many(), {"name": sampler}, 64, pixels=pixels), Z)
    out = task(at)
    assert torch.equal(out[:, :, :2], at.known.latent[:, :, :2]) and out.isfinite().all()
    mean, covariance = truth(task.cells[0, :, 0, 0], Z)
    off = (out[0, 0, :, 0].mean(1) - mean).abs().max()
    spread = (out[0, 0, :, 0].std(1) - covariance.diagonal().sqrt()).abs().max()
    assert off < (0.1 if name == "conditioning" else 0.6)
    assert spread < (0.1 if name == "conditioning" else 0.5)


def test_a_box_is_painted_and_the_rest_is_kept():
    shape = (2, 4, 10, 8)
    place = Canvas(shape, Grid(*shape), build("tokenizer", "pixels"))
    task = build("task", {"name": "replacement", "frames": "none", "box": [0.2, 0.25, 0.4, 0.5]}, canvas=place)
    unknown = torch.zeros(shape[1:], dtype=torch.bool)
    unknown[:, 2:6, 2:6] = True
    assert torch.equal(~task.pixels, unknown) and torch.equal(task.cells, ~unknown.expand(shape))
    both = build("task", {"name": "replacement", "frames": "first", "count": 1, "box": [0, 0, 1, 1]}, canvas=place)
    assert both.pixels[0].all() and not both.pixels[1:].any()


# ---- replacement: a known bias, which going back and forth lessens ----


def test_replacement_is_biased_and_resampling_lessens_it():
    """Stated in docs/conventions.md: with one frame of an AR(1) clip known, replacement follows it too little."""
    z = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0], dtype=F64)
    plain = build("task", {"name": "replacement", "frames": "first", "count": 1}, canvas=canvas(6))
    bias = errors(plain, 128, z)[0]
    assert 0.1 < bias < 1.2
    true_mean, _ = truth(plain.cells[0, :, 0, 0], z)
    pixels, found = 4000, {}
    for resample in (1, 10):
        node = {"name": "replacement", "frames": "first", "count": 1, "resample": resample, "jump": 4}
        task = build("task", node, canvas=canvas(pixels))
        out = task(take(task, sampling(Many(), "ancestral", 64, pixels=pixels), z))
        found[resample] = (out[0, 0, :, 0].mean(1) - true_mean).abs().max().item()
    assert found[10] < 0.5 * found[1], found


def test_what_is_known_walks_from_noise_to_itself_along_the_path():
    """x_t = alpha z + sigma noise for a known element at every evaluation, whatever the sampler does to others."""
    seen = []
    for sampler in ("euler", "heun"):
        task = build("task", {"name": "replacement", "frames": "first", "count": 2}, canvas=canvas(3))
        at = take(task, sampling(Many(), sampler, 7, pixels=3), Z)
        watch(at, seen)
        task(at)
        x1, known = seen[0][0], at.known.latent
        for x, t in seen:
            expected = (1 - t[0]) * known + t[0] * x1
            assert torch.allclose(x[:, :, :2], expected[:, :, :2], atol=1e-12)
        seen.clear()


# ---- roll-out ----


@pytest.mark.parametrize("context", [1, 2, 4])
def test_a_roll_out_keeps_mean_and_covariance_beyond_the_training_length(context):
    """AR(1): a context says all there is to say, so 13 frames drawn by a model of 5 have the covariance of 13."""
    node = {"name": "rollout", "num_frames": 13, "context": context}
    windows = 1 + -(-(13 - FRAMES) // (FRAMES - context))
    worst = []
    for steps in (64, 128):
        task = build("task", node, canvas=canvas(6))
        out = task(sampling(Columns(windows), steps=steps))
        mean, covariance = moments(out)
        assert out.shape[2] == 13 and mean.abs().max() == 0
        worst.append((covariance - autoregressive(13)).abs().max().item())
    assert worst[1] < 0.01 and 2.5 < worst[0] / worst[1] < 6


def test_a_roll_out_from_a_clip_begins_with_it_and_follows_its_mean():
    task = build("task", {"name": "rollout", "num_frames": 9, "context": 2, "start": "clip"}, canvas=canvas(6))
    assert task.pixels[:2].all() and not task.pixels[2:].any()
    mean, _ = moments(task(take(task, sampling(Columns(3), steps=128), Z)))
    assert torch.equal(mean[:2], Z[:2])
    assert torch.allclose(mean[2:], Z[1] * 0.9 ** torch.arange(1, 8, dtype=F64), atol=3e-3)


def test_a_roll_out_by_replacement_forgets_more_than_it_should():
    node = {"name": "rollout", "num_frames": 13, "context": 2}
    truth = autoregressive(13)
    off = {}
    for by in ("conditioning", "replacement"):
        task = build("task", {**node, "by": by}, canvas=canvas(6))
        off[by] = (moments(task(sampling(Columns(4), steps=64)))[1] - truth).abs().max().item()
    assert off["conditioning"] < 0.02 < 0.1 < off["replacement"]


def test_a_level_tells_the_network_less_trust_and_adds_no_noise():
    path, asked = build("path", "linear"), []
    latent = torch.arange(1.0, 6.0, dtype=F64)[None, None, :, None, None]
    mask = (torch.arange(5) < 2)[None, :, None, None]
    inner = lambda x, t: asked.append((x, t)) or None  # noqa: E731
    shown_clean(inner, Known(latent, mask), path, level=0.1)(torch.zeros_like(latent), torch.tensor([0.7], dtype=F64))
    x, t = asked[0]
    assert torch.allclose(t, torch.tensor([[0.1, 0.1, 0.7, 0.7, 0.7]], dtype=F64))
    assert torch.allclose(x[0, 0, :, 0, 0], torch.tensor([0.9, 1.8, 0.0, 0.0, 0.0], dtype=F64))


def test_a_roll_out_with_a_slope_reaches_the_same_distribution():
    node = {"name": "rollout", "num_frames": 9, "context": 1, "slope": 40}
    task = build("task", node, canvas=canvas(6))
    _, covariance = moments(task(sampling(Columns(2), "euler", steps=320)))
    assert (covariance - autoregressive(9)).abs().max() < 0.03


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"context": 5}, "must fill one at least and leave one"),
        ({"context": 2, "by": "replacement", "level": 0.1}, "leave level and slope"),
    ],
)
def test_a_roll_out_that_cannot_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        build("task", {"name": "rollout", "num_frames": 9, **settings}, canvas=canvas(6))


# ---- pyramid ----


def test_a_staircase_lets_frames_follow_one_another():
    times = torch.tensor([1.0, 0.6, 0.2, 0.0], dtype=F64)
    assert torch.equal(staircase(times, 0, 3), times[:, None].expand(4, 3))
    assert staircase(times, 2, 3).T.tolist() == [
        [1.0, 0.6, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 1.0, 1.0, 0.6, 0.2, 0.0, 0.0, 0.0],
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.6, 0.2, 0.0],
    ]
    assert staircase(times, 1, 4, wait=2).T.tolist() == [[1.0, 0.6, 0.2, 0.0, 0.0]] * 3 + [[1.0, 1.0, 0.6, 0.2, 0.0]]


FRAMEWISE = [c.name for c in SAMPLERS if c.target.framewise]


@pytest.mark.parametrize("sampler", FRAMEWISE)
def test_equal_times_per_frame_are_the_ordinary_sampler_to_the_bit(sampler):
    outs = []
    for wide in (False, True):
        at = sampling(Many(), sampler, 6, pixels=4)
        elementwise = lambda x, t, path=at.path: build("prediction", "v").solve(  # noqa: E731
            path, x, torch.sin(3 * x), t
        )
        times = at.times[:, None].expand(-1, FRAMES) if wide else at.times
        outs.append(at.run(elementwise, at.start(), times))
    assert torch.equal(*outs)


def test_slope_0_is_generate_to_the_bit():
    outs = []
    for task in ("generate", {"name": "pyramid", "slope": 0}):
        outs.append(build("task", task, canvas=canvas(4))(sampling(Many(), "heun", 6, pixels=4)))
    assert torch.equal(*outs)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_pyramid_reaches_the_distribution_of_the_data(share):
    """A flow along any way through times per frame has the same ends; slope S draws one frame after the other."""
    worst = []
    for steps in (80, 160):
        task = build("task", {"name": "pyramid", "slope": int(share * steps)}, canvas=canvas(6))
        _, covariance = moments(task(sampling(Columns(1), "euler", steps)))
        worst.append((covariance - K).abs().max().item())
    assert worst[1] < 0.05 and 1.6 < worst[0] / worst[1] < 2.6


def test_a_pyramid_with_fresh_noise_reaches_it_too():
    pixels = 20_000
    task = build("task", {"name": "pyramid", "slope": 20}, canvas=canvas(pixels))
    out = task(sampling(Many(), "ancestral", 100, pixels=pixels))[0, 0, :, 0]
    assert (out.cov() - K).abs().max() < 0.05 and out.mean(1).abs().max() < 0.03


def test_the_first_frame_is_done_before_the_last_one_begins():
    asked, task = [], build("task", {"name": "pyramid", "slope": 3}, canvas=canvas(2))
    at = sampling(Many(), "euler", 4, pixels=2)
    watch(at, asked)
    task(at)
    assert len(asked) == task.evaluations(at.sampler) == 4 + 3 * (FRAMES - 1)
    times = torch.stack([t[0] for _, t in asked])
    assert (times.diff(dim=1) >= 0).all() and (times.diff(dim=0) <= 0).all()
    assert times[6].tolist() == [0.0, 0.25, 1.0, 1.0, 1.0]


def test_what_a_pyramid_and_conditioning_cannot_do_is_refused():
    forcing, masked, flow = (build("objective", o) for o in ("diffusion_forcing", "masked_video", "rectified_flow"))
    euler, heun, nothing = build("sampler", "euler"), build("sampler", "heun"), frozenset()
    pyramid = build("task", "pyramid", canvas=canvas(3))
    pyramid.check(euler, forcing, nothing)
    with pytest.raises(ValueError, match="Use sampler: euler"):
        pyramid.check(heun, forcing, nothing)
    with pytest.raises(ValueError, match="objective: diffusion_forcing"):
        pyramid.check(euler, masked, nothing)
    conditioning = build("task", {"name": "conditioning", "count": 2}, canvas=canvas(3))
    for objective, reads in ((forcing, nothing), (masked, nothing), (flow, frozenset({"latent"}))):
        conditioning.check(heun, objective, reads)
    with pytest.raises(ValueError, match="task: replacement"):
        conditioning.check(heun, flow, frozenset({"label"}))


# ---- sdedit and inversion ----


def test_sdedit_transports_the_noised_video():
    """One Gaussian: from x_s the flow is K^1/2 C_s^-1/2, C_s = alpha^2 K + sigma^2."""
    task = build("task", {"name": "sdedit", "strength": 0.6}, canvas=canvas(6))
    at = take(task, sampling(Columns(1), steps=256), Z)
    mean, covariance = moments(task(at))
    values, axes = torch.linalg.eigh(K)
    flow = axes @ torch.diag((values / (0.4**2 * values + 0.6**2)).sqrt()) @ axes.T
    assert torch.allclose(mean, flow @ (0.4 * Z), atol=2e-3)
    assert torch.allclose(covariance, 0.36 * flow @ flow.T, atol=2e-3)


def test_sdedit_of_strength_1_is_generate_to_the_bit_and_of_little_strength_the_video():
    outs = {}
    for name, task in {"all": {"name": "sdedit", "strength": 1.0}, "none": "generate", "bit": "sdedit"}.items():
        made = build("task", {"name": "sdedit", "strength": 0.01} if name == "bit" else task, canvas=canvas(4))
        at = sampling(Many(), "euler", 9, pixels=4)
        outs[name] = made(at if name == "none" else take(made, at, Z))
    assert torch.equal(outs["all"], outs["none"])
    assert (outs["bit"][0, 0, :, 0] - Z[:, None]).abs().max() < 0.05


def whatever(estimate, known):
    return estimate


@pytest.mark.parametrize(("sampler", "least", "most"), [("euler", 1, 1), ("heun", 2, 3)])
@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_inversion_returns_to_the_order_of_its_sampler(sampler, least, most, path):
    """A mixture, not a Gaussian: there the way is curved. Of an even order the leading errors cancel on the way back."""
    shape, errors = (2, 3, 2, 1), []
    mixture = three(12)
    data = mixture.sample(8, seed=3).reshape(8, *shape)
    task = build("task", "inversion", canvas=Canvas(shape, Grid(*shape), build("tokenizer", "pixels")))
    for steps in (64, 128):
        made, along = build("sampler", {"name": sampler, "steps": steps}), build("path", path)
        dice = PriorRandom(None, Random(0, "s", rows=range(8)))
        times = made.spacing(steps, along, (0.0, 1.0))
        at = Sampling(made, along, times, dice, Grid(*shape), data.device, partial(whatever, mixture.estimate(along)))
        at.known = Known(data, task.cells)
        out = task(at)
        errors.append((out - data).square().mean().sqrt().item())
        told = torch.tensor(at.notes["round_trip_rmse"], dtype=F64)
        assert told.shape == (8,) and torch.allclose(told.square().mean().sqrt(), torch.tensor(errors[-1], dtype=F64))
    assert 2 ** (least - 0.25) < errors[0] / errors[1] < 2 ** (most + 0.6)


def test_inversion_refuses_samplers_that_add_noise():
    task, flow = build("task", "inversion", canvas=canvas(3)), build("objective", "rectified_flow")
    task.check(build("sampler", "heun"), flow, frozenset())
    with pytest.raises(ValueError, match="adds noise.*heun"):
        task.check(build("sampler", "ancestral"), flow, frozenset())


@pytest.mark.parametrize("name", [c.name for c in OBJECTIVES if getattr(c.target, "tells", None) != VELOCITY])
def test_what_inversion_advises_can_be_had(name):
    """A model of few steps may tell no velocity: then no sampler helps. Where one does, it is taken."""
    task, objective = build("task", "inversion", canvas=canvas(3)), SimpleNamespace(tells=OBJECTIVES[name].target.tells)
    if "velocity" in objective.tells:
        task.check(build("sampler", "heun"), objective, frozenset())
        with pytest.raises(ValueError, match="jumps .*heun"):
            task.check(build("sampler", "jump"), objective, frozenset())
        return
    for sampler in SAMPLERS.names():
        with pytest.raises(ValueError, match=r"estimates tell (end|step) only\. Use task: sdedit") as told:
            task.check(build("sampler", sampler), objective, frozenset())
        assert "heun" not in str(told.value)
    for sampler in (s for s in SAMPLERS.names() if build("sampler", s).asks & objective.tells):
        build("task", "sdedit", canvas=canvas(3)).check(build("sampler", sampler), objective, frozenset())


# ---- what is known of pixels and of latents ----

SHAPE = (2, 8, 12, 8)  # C T H W
TOKENIZERS = {
    "pixels": "pixels",
    "tubelet": {"name": "tubelet", "size": [2, 4, 4]},
    "frame_patch": {"name": "frame_patch", "size": 4},
    "dct3d": {"name": "dct3d", "size": [2, 4, 4]},
    "haar3d": {"name": "haar3d", "levels": [1, 2, 1]},
}


def on(tokenizer, shape=SHAPE):
    made = build("tokenizer", TOKENIZERS[tokenizer])
    return Canvas(shape, Grid(*made.latent_shape(shape)), made)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_latent_is_known_only_if_all_its_pixels_are(tokenizer):
    """By brute force: an element is known if no change of an unknown pixel can move it."""
    place = on(tokenizer)
    pixels = known_pixels(SHAPE, "first", 5)
    cells = place.cells(pixels)
    g = torch.Generator().manual_seed(1)
    a, b = (torch.randn(1, *SHAPE, generator=g, dtype=F64) for _ in range(2))
    b = torch.where(pixels, a, b)
    same = (place.tokenizer.encode(a) - place.tokenizer.encode(b))[0].abs() < 1e-12
    moves = tokenizer in ("pixels", "tubelet", "frame_patch")
    assert place.moves_pixels() == moves
    assert torch.equal(cells, same) if moves else (same[cells].all() and torch.equal(cells.all(0), same.all(0)))
    whole = 5 if tokenizer in ("pixels", "frame_patch") else 4
    shown = place.pixels(cells).flatten(1).all(1)
    assert shown.sum() == (5 if moves else whole) and shown[: shown.sum()].all()


@pytest.mark.parametrize("tokenizer", ["dct3d", "haar3d"])
def test_a_part_of_a_frame_needs_a_tokenizer_that_moves_pixels(tokenizer):
    with pytest.raises(ValueError, match="mixes its pixels"):
        on(tokenizer).cells(known_pixels(SHAPE, "none", 1, (0.0, 0.0, 0.5, 0.5)))


def test_frames_of_a_causal_tokenizer():
    """1 + 4 k frames: the first latent frame is one frame, the others are four."""

    class Causal(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def latent_shape(self, shape):
            return Grid(3, 1 + (shape[1] - 1) // 4, 2, 2)

    place = Canvas((1, 9, 4, 4), Grid(3, 3, 2, 2), Causal())
    assert place.spans() == [(0, 1), (1, 5), (5, 9)]
    assert [place.known_frames(k) for k in (1, 4, 5, 9)] == [1, 1, 2, 3]
    cells = place.cells(known_pixels((1, 9, 4, 4), "first", 6))
    assert cells.shape == (3, 3, 2, 2) and cells[:, :2].all() and not cells[:, 2].any()
    assert place.pixels(cells).flatten(1).all(1).tolist() == [True] * 5 + [False] * 4


@pytest.mark.parametrize(
    ("frames", "count", "box", "words"),
    [
        ("first", 8, None, "every pixel"),
        ("none", 3, None, "nothing of the video"),
        ("every", 1, None, "every pixel"),
        ("none", 1, (0.0, 0.0, 1.0, 1.0), "nothing of the video"),
    ],
)
def test_nothing_or_everything_known_is_refused(frames, count, box, words):
    with pytest.raises(ValueError, match=words):
        known_pixels(SHAPE, frames, count, box)


def test_too_few_frames_to_fill_a_latent_one_are_refused():
    with pytest.raises(ValueError, match="one of them holds 2 frames"):
        on("dct3d").cells(known_pixels(SHAPE, "first", 1))


def test_what_is_known_stays_so_for_models_that_are_told_where_a_step_ends():
    """A shortcut model is told the end of its step, known frames at both ends of it; learned variances are kept."""
    path, told = build("path", "linear"), []
    latent, mask = torch.ones(2, 1, 3, 1, 1, dtype=F64), (torch.arange(3) < 1)[None, :, None, None]
    known, x = Known(latent, mask), torch.zeros(2, 1, 3, 1, 1, dtype=F64)

    def model(x, t, s=None):
        told.append((t, s))
        return Estimate(x, x).spread(x)

    wrapped = pinned(shown_clean(Aiming(model), known, path), known, path)
    t, s = torch.tensor([0.9, 0.8], dtype=F64), torch.tensor([0.4, 0.3], dtype=F64)
    belief = toward(wrapped, s)(x, t)
    assert torch.equal(told[0][0], torch.tensor([[0, 0.9, 0.9], [0, 0.8, 0.8]], dtype=F64))
    assert torch.equal(told[0][1], torch.tensor([[0, 0.4, 0.4], [0, 0.3, 0.3]], dtype=F64))
    assert (belief.x0[:, :, 0] == 1).all() and (belief.x0[:, :, 1:] == 0).all() and belief.share is not None


def test_conditioning_knows_whole_latent_frames_and_replacement_every_pixel():
    """5 frames in tubelets of 2: two latent frames and, for replacement, half the elements of a third."""
    whole = build("task", {"name": "conditioning", "count": 5}, canvas=on("tubelet"))
    each = build("task", {"name": "replacement", "count": 5}, canvas=on("tubelet"))
    assert whole.pixels.flatten(1).all(1).sum() == 4 and each.pixels.flatten(1).all(1).sum() == 5
    assert whole.cells.float().mean() == 0.5 and each.cells.float().mean() == 5 / 8
    with pytest.raises(ValueError, match="one of them holds 2 frames"):
        build("task", {"name": "conditioning", "count": 1}, canvas=on("tubelet"))


@pytest.mark.parametrize("path", ["linear", "cosine", "ve"])
def test_fresh_noise_up_to_a_later_time_is_the_paths_own(path):
    """x_s = alpha_s x0 + sigma_s noise, taken to t, has alpha_t x0 as its mean and sigma_t^2 as its variance."""
    pixels = 40_000
    at = sampling(Many(), path=path, pixels=pixels)
    s, t = (torch.tensor(v, dtype=F64) for v in (0.3, 0.7))
    x0 = torch.full((1, 1, FRAMES, 1, pixels), 1.7, dtype=F64)
    out = noised(at, at.path.point(x0, at.noise(), s), s, t)
    sigma = at.path.sigma(t)
    assert (out.mean() - 1.7 * at.path.alpha(t)).abs() < 4 * sigma / (FRAMES * pixels) ** 0.5
    assert (out.var() / sigma**2 - 1).abs() < 0.015
