"""The checks that users run: every component of the zoo keeps them, and planted bugs are caught by the named one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo  # noqa: F401
from tests.contracts.test_dataset import NEED_FILES
from vidiff.checks import CHECKS, judge
from vidiff.commands import check
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.objective import PARTS
from vidiff.errors import Interrupted
from vidiff.registry import (
    CACHES,
    CONDITIONERS,
    DATASETS,
    ENCODERS,
    GUIDANCE,
    KINDS,
    NOISES,
    OBJECTIVES,
    PATHS,
    POSITIONS,
    PREDICTIONS,
    SAMPLERS,
    SPACINGS,
    TASKS,
    TIMES,
    TOKENIZERS,
    WEIGHTINGS,
    Component,
)
from vidiff.types import Count
from zoo.caches.first_block import FirstBlockRun

EVERYTHING = [
    (kind, name, function)
    for kind, functions in CHECKS.items()
    for name in KINDS[kind].names()
    for function in functions
]


@pytest.mark.parametrize(
    ("kind", "name", "function"), EVERYTHING, ids=lambda v: v if isinstance(v, str) else v.__name__
)
def test_the_zoo_keeps_its_promises(kind, name, function, tmp_path, monkeypatch):
    if name in NEED_FILES:
        monkeypatch.chdir(tmp_path)
        NEED_FILES[name]()
    finding = judge(function, KINDS[kind][name])
    assert finding.outcome != "broken", finding.words


def test_every_check_says_what_is_wrong():
    for kind, functions in CHECKS.items():
        for function in functions:
            assert len(function.__doc__ or "") > 40 and function.__doc__.strip().endswith("."), (kind, function)


# ---- planted bugs ----


class Network(nn.Module):
    """A small network that keeps every promise; the planted ones each break one."""

    uses = frozenset({"vector"})
    zero_init = True
    scale = 1000.0

    def __init__(self, dim: Count = 24, *, grid, out_channels, cond, attention, positions):
        super().__init__()
        self.enter, self.leave = nn.Linear(grid.c, dim), nn.Linear(dim, out_channels)
        self.place = positions(dim=dim, head_dim=dim, grid=grid, axes="thw")
        self.time = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.told = nn.Linear(cond.vector, dim)
        self.blocks = nn.ModuleList([nn.Linear(dim, dim)])
        self.attention = attention
        self.reset()

    def reset(self):
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def check(self, grid):
        pass

    def sinusoid(self, time: Tensor) -> Tensor:
        w = torch.exp(-9.21 * torch.arange(128, device=time.device) / 128)
        a = (time * self.scale)[..., None] * w
        return torch.cat([a.cos(), a.sin()], dim=-1)

    def forward(self, x, time, cond):
        time = time if time.ndim == 2 else time[:, None]
        c = self.time(self.sinusoid(time).to(x.dtype)) + self.told(cond.vector)[:, None]
        h = self.enter(x.movedim(1, -1))
        coords = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in x.shape[2:]), indexing="ij"), -1)
        added = self.place.added(coords.to(x.device))
        h = h if added is None else h + added.to(h.dtype)
        h = self.mix(h * (1 + c[:, :, None, None]))
        return self.leave(h + c[:, :, None, None]).movedim(-1, 1)

    def mix(self, h: Tensor) -> Tensor:
        q = self.blocks[0](h).flatten(1, 3)[:, None]
        return h + self.attention(q, q, q)[:, 0].reshape(h.shape)


class LateXavier(Network):
    def reset(self):
        super().reset()
        self.apply(lambda m: nn.init.xavier_uniform_(m.weight) if isinstance(m, nn.Linear) else None)


class UnscaledTime(Network):
    scale = 1.0


class BlindToTime(Network):
    def sinusoid(self, time):
        return torch.ones(*time.shape, 256, device=time.device)


class Leaking(Network):
    def mix(self, h):
        return super().mix(h - h.mean(dim=0, keepdim=True))


class ForgetsTheLastFrame(Network):
    def forward(self, x, time, cond):
        return super().forward(torch.cat([x[:, :, :-1], torch.zeros_like(x[:, :, -1:])], dim=2), time, cond)


class MixesUpItsAxes(Network):
    def forward(self, x, time, cond):
        y = super().forward(x, time, cond)
        return y.transpose(3, 4).reshape(y.shape)


class Unused(Network):
    def reset(self):
        super().reset()
        self.spare = nn.Linear(3, 5)


class WritesIntoItsInput(Network):
    def forward(self, x, time, cond):
        x += 1
        return super().forward(x, time, cond)


class ThrowsDice(Network):
    def mix(self, h):
        return super().mix(h) + 0.1 * torch.randn_like(h)


class PerToken(Network):
    def forward(self, x, time, cond):
        n = x.shape[3] * x.shape[4]
        time = time if time.ndim == 2 else time[:, None]
        self.time(self.sinusoid(time)[:, :, None].expand(-1, -1, n, -1))
        return super().forward(x, time if time.shape[1] > 1 else time[:, 0], cond)


class Flash:
    """Latte's "flash" branch: (B,H,N,D) taken for (B,N,H,D)."""

    flip, mirrored = False, True

    def __call__(self, q, k, v, mask=None):
        mask = ~mask if self.flip and mask is not None else mask
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return y.transpose(1, 2).reshape(y.shape) if self.mirrored else y

    def refuses(self, device, dtype, head_dim, masked):
        return None


class InvertedMask(Flash):
    flip, mirrored = True, False


class WrongOrder(TOKENIZERS["tubelet"].target):
    def decode(self, z):
        b, c, t, h, w = z.shape
        pt, ph, pw = self.patch
        z = z.reshape(b, pt, ph, pw, c // (pt * ph * pw), t, h, w)  # encode orders (C pt ph pw)
        return z.permute(0, 4, 5, 1, 6, 2, 7, 3).reshape(b, -1, t * pt, h * ph, w * pw)


class ThreeChannels(GUIDANCE["cfg"].target):
    def __call__(self, evaluate, given):
        def estimate(x, t):
            with_it, without = evaluate(x, t, [given.cond, given.uncond])
            both = zip(with_it, without, strict=True)
            return Estimate(*(torch.cat([torch.lerp(u, c, self.scale)[:, :3], c[:, 3:]], dim=1) for c, u in both))

        return estimate


class NullTells(CONDITIONERS["label"].target):
    def forward(self, batch, drop):
        return super().forward(batch, drop & False)


class HidesTheText(CONDITIONERS["text_bytes"].target):
    def forward(self, batch, drop):
        cond = super().forward(batch, drop)
        return replace(cond, mask=~cond.mask)


class DeniesTheMask(CONDITIONERS["text_bytes"].target):
    @property
    def spec(self):
        return self.told

    @spec.setter
    def spec(self, spec):
        self.told = replace(spec, masked=False)


class DropsTogether(CONDITIONERS["label"].target):
    def forward(self, batch, drop):
        return super().forward(batch, drop.any().expand(drop.shape))


class Floats(DATASETS["stand_in"].target):
    def __getitem__(self, i):
        item = super().__getitem__(i)
        return {**item, "video": item["video"].float()}


class ShowsTraining(DATASETS["stand_in"].target):
    def __init__(self, shape, *, seed, split):
        if split not in ("train", "val", "test"):
            raise ValueError(f"split '{split}' is not known")
        super().__init__(shape, seed=seed, split="train")


class FewTimes(POSITIONS["sincos"].target):
    def added(self, coords):
        return super().added((coords / 2).floor())


class Clean1(PATHS["linear"].target):
    def alpha(self, t):
        return t

    def sigma(self, t):
        return 1 - t


class WrongSlope(PATHS["cosine"].target):
    def sigma_dot(self, t):
        return -super().sigma_dot(t)


class WrongSign(PREDICTIONS["v"].target):
    def target(self, path, x0, noise, t):
        return -super().target(path, x0, noise, t)


class Unclamped(WEIGHTINGS["uniform"].target):
    def weight(self, path, t):
        return torch.where(t < 1e-3, torch.inf, 1.0).to(t.dtype)


class LeavesTheInterval(TIMES["uniform"].target):
    def quantile(self, u, path, interval):
        return u


class Loud(NOISES["gaussian"].target):
    def __call__(self, shape, random, dtype=torch.float32):
        x = super().__call__(shape, random, dtype)
        return 0.9 * x + 0.9 * super().__call__(shape, random, dtype)


class StopsInNoise(SPACINGS["uniform"].target):
    def __call__(self, steps, path, interval):
        times = super().__call__(steps, path, interval)
        return torch.cat([times[:-1], times[-2:-1] / 2])


class TooMuchNoise(SAMPLERS["ancestral"].target):
    def __call__(self, estimate, x, times, path, random):
        return super().__call__(estimate, x, times, path, Louder(random))


class Louder:
    def __init__(self, random):
        self.random = random

    def normal(self, shape, dtype):
        return 1.2 * self.random.normal(shape, dtype)


class Stingy(SAMPLERS["heun"].target):
    evaluations = 7


class Forgetful(CACHES["first_block"].target):
    def start(self, tally):
        self.run = getattr(self, "run", None) or super().start(tally)
        return self.run


class Decides(FirstBlockRun):
    def enter(self, look, base):
        super().enter(look.mean(0, keepdim=True).expand_as(look), base)


class Together(CACHES["first_block"].target):
    def start(self, tally):
        return Decides(self.threshold, tally)


class OverTheBatch(ENCODERS["dct"].target):
    def __call__(self, video):
        return super().__call__(video - video.mean(0))


class OverBatch(OBJECTIVES["rectified_flow"].target):
    def loss_at(self, net, x0, noise, t, cond):
        return super().loss_at(net, x0 - x0.mean(0), noise, t, cond)


class ThrowsItsOwn(TASKS["generate"].target):
    def __call__(self, sampling):
        z = super().__call__(sampling)
        return z + 0.1 * torch.randn_like(z)


class CountsFromZero(GUIDANCE["cfg"].target):
    def __init__(self, scale: float = 3.0):
        super().__init__(scale + 1)


class MovesAgreement(GUIDANCE["cfg"].target):
    def __call__(self, evaluate, given):
        estimate = super().__call__(evaluate, given)
        return lambda x, t: Estimate(*(1.1 * e for e in estimate(x, t)))


class Mixing(TOKENIZERS["tubelet"].target):
    def encode(self, video):
        return super().encode(video - 0.1 * video.mean(dim=0, keepdim=True))


PLANTED = [
    ("tokenizer", Mixing, dict(size=[2, 3, 4]), "videos_keep_apart", "a batch of one and of two"),
    ("conditioner", NullTells, {}, "what_is_dropped_says_nothing", "still depends"),
    ("conditioner", DropsTogether, {}, "dropping_one_leaves_the_others", "changed with 1"),
    (
        "conditioner",
        DeniesTheMask,
        CONDITIONERS["text_bytes"].tiny,
        "gives_what_its_spec_says",
        "`spec.masked` is False",
    ),
    ("conditioner", HidesTheText, CONDITIONERS["text_bytes"].tiny, "what_is_kept_tells_the_entries", "is inverted"),
    ("backbone", LateXavier, {}, "zero_at_the_start", "xavier"),
    ("backbone", UnscaledTime, {}, "sees_the_time", "scaled"),
    ("backbone", BlindToTime, {}, "sees_the_time", "told apart"),
    ("backbone", Leaking, {}, "samples_keep_apart", "leak along the batch"),
    ("backbone", ForgetsTheLastFrame, {}, "sees_every_frame", "frame 2 of 3"),
    ("backbone", MixesUpItsAxes, {}, "answers_where_it_is_asked", "h and w swapped"),
    ("backbone", Unused, {}, "every_parameter_learns", "spare.weight"),
    ("backbone", WritesIntoItsInput, {}, "leaves_its_inputs_alone", "x was changed"),
    ("backbone", ThrowsDice, {}, "throws_no_dice", "global generator"),
    ("backbone", PerToken, {}, "condition_costs_nothing_per_token", "never per token"),
    ("attention", Flash, {}, "is_attention", "missing transpose"),
    ("attention", InvertedMask, {}, "a_mask_keeps_what_is_true", "True = keep"),
    ("tokenizer", WrongOrder, dict(size=[2, 3, 4]), "a_permutation_loses_nothing", "order their axes"),
    ("guidance", ThreeChannels, dict(scale=2.0), "guides_all_channels_alike", "channels"),
    ("guidance", CountsFromZero, dict(scale=2.0), "scale_one_is_no_guidance", "call that 0"),
    ("guidance", MovesAgreement, dict(scale=2.0), "agreement_changes_nothing", "sum to one"),
    ("dataset", Floats, dict(shape=[3, 4, 6, 8]), "items_are_what_it_says", "torch.float32"),
    ("dataset", ShowsTraining, dict(shape=[3, 4, 6, 8]), "held_out_clips_are_held_out", "val[0] is in the training"),
    ("positions", FewTimes, {}, "tells_places_apart", "two places over thw"),
    ("path", Clean1, {}, "starts_clean_and_only_gets_noisier", "the wrong way round"),
    ("path", WrongSlope, {}, "derivatives_are_those_of_autograd", "sigma_dot is off"),
    ("prediction", WrongSign, {}, "solves_for_data_and_noise", "do not share"),
    ("weighting", Unclamped, {}, "is_finite_and_not_negative", "without a clamp"),
    ("times", LeavesTheInterval, {}, "quantiles_ascend_in_the_interval", "it leaves [0.1, 0.7]"),
    ("sampler", TooMuchNoise, dict(steps=4), "reaches_the_data", "fresh noise"),
    ("sampler", Stingy, dict(steps=5), "counts_its_evaluations", "`evaluations` says 7"),
    ("cache", Forgetful, dict(threshold=0.1), "the_first_call_is_the_network", "state must be in the run"),
    ("cache", Together, dict(threshold=0.5), "samples_keep_apart", "alone and among three"),
    ("encoder", OverTheBatch, dict(size=[2, 4, 4], keep=[1, 2, 2]), "videos_keep_apart", "normalization"),
    ("objective", OverBatch, {}, "rows_are_independent", "accumulation"),
    ("task", ThrowsItsOwn, {}, "videos_keep_apart", "global generator"),
    ("noise", Loud, {}, "every_element_is_standard", "a^2 + b^2 = 1"),
    ("spacing", StopsInNoise, {}, "descends_to_clean", "stops in noise"),
]


def component(kind, target, tiny=None):
    parts = {"sampler": {"path": "path", "spacing": "spacing"}, "objective": PARTS}.get(kind, {})
    return Component(kind, target.__name__, target, tiny or {}, parts)


def functions(kind):
    return {function.__name__: function for function in CHECKS[kind]}


def test_the_network_without_a_bug_keeps_every_promise():
    findings = [judge(function, component("backbone", Network)) for function in CHECKS["backbone"]]
    assert [f.words for f in findings if f.outcome == "broken"] == []


@pytest.mark.parametrize(("kind", "target", "tiny", "name", "words"), PLANTED, ids=lambda v: getattr(v, "__name__", ""))
def test_a_planted_bug_is_caught_by_the_named_check(kind, target, tiny, name, words):
    finding = judge(functions(kind)[name], component(kind, target, tiny))
    assert finding.outcome == "broken" and words in finding.words, finding
    if kind == "backbone":  # and it is that bug, not a network that fails at everything
        outcomes = [judge(f, component(kind, target, tiny)).outcome for f in CHECKS[kind]]
        assert (
            outcomes.count("broken") <= len(outcomes) * 0.4
        )  # what writes or throws dice fails wherever it is asked twice


def test_a_crash_is_a_finding_too():
    finding = judge(functions("backbone")["answers_any_grid"], component("backbone", Network, dict(depth=3)))
    assert finding.outcome == "broken" and "it raises TypeError" in finding.words


# ---- the command ----


def test_the_example_project_passes(capsys):
    assert check.main(["projects/example_idea/components.py:ConvNeXt3D", "dim=16"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("backbone convnext3d: ") and "ok   zero_at_the_start" in out and "FAIL" not in out


def test_a_broken_component_in_a_file_of_ones_own(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch.nn import functional as F\n"
        "from vidiff.registry import ATTENTION\n\n\n"
        "@ATTENTION.register('upside_down')\n"
        "class UpsideDown:\n"
        "    def __call__(self, q, k, v, mask=None):\n"
        "        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else ~mask)\n\n"
        "    def refuses(self, device, dtype, head_dim, masked):\n"
        "        return None\n"
    )
    try:
        assert check.main([f"{file}:UpsideDown"]) == 3
        out, err = capsys.readouterr()
        assert "FAIL a_mask_keeps_what_is_true: mask True = keep" in out and "ok   is_attention" in out
        assert err == "vidiff: stopped: 2 of 9 checks fail.\n"
        assert check.main([f"{file}:UpsideDwn"]) == 2
        assert "Did you mean 'UpsideDown'" in capsys.readouterr().err
    finally:
        KINDS["attention"].remove("upside_down")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nothing.py:Name"], "neither a Python file"),
        (["backbone:dit_jiont"], "Did you mean 'dit_joint'"),
        (["backbone:dit_joint", "dept=3"], "no setting 'dept'. Did you mean 'depth'"),
        (["backbone:dit_joint", "depth=0"], "must be an integer at least 1"),
        (["tests/oracle.py"], "registers nothing"),
    ],
)
def test_refusals(capsys, words, text):
    assert check.main(words) == 2
    assert text in capsys.readouterr().err


def test_settings_replace_tiny_ones():
    (found,) = check.found("backbone:dit_joint")
    assert check.with_settings(found, ["depth=3"]).tiny == {**found.tiny, "depth": 3} != replace(found).tiny


def test_a_signal_ends_the_checks_and_is_no_finding():
    def check(component):
        raise Interrupted("SIGTERM")

    with pytest.raises(Interrupted):
        judge(check, component("backbone", Network))
