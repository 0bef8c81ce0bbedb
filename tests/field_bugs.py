"""Known field bugs, planted one at a time into a copy of the sources: the tests must notice each.

    python -m tests.field_bugs                  all of them, and docs/field_bugs.md
    python -m tests.field_bugs cfg_three_channels heun_at_t    these, printed only

Each is what somebody shipped (the project is named), written in our code as it would look there, with the few test
files that are asked. The working tree is never changed: a copy in a temporary folder is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/field_bugs.md"
COPIED = (
    "vidiff",
    "zoo",
    "tests",
    "projects",
    "tools",
    "docs",
    "pyproject.toml",
    "setup.cfg",
    "README.md",
    "CHANGELOG.md",
)


class Bug(NamedTuple):
    """What went wrong where, and the tests that are asked."""

    name: str
    field: str
    file: str
    right: str
    wrong: str
    tests: str


CFG, EST = "zoo/guidance/cfg.py", "vidiff/diffusion/estimate.py"
GUIDED, EULER = "tests/zoo/guidance/test_cfg.py tests/zoo/guidance/test_field.py", "zoo/samplers/euler.py"
MATH = "tests/zoo/objectives/test_predictions.py tests/zoo/samplers/test_euler.py tests/diffusion/test_objective.py"
LOSS = "tests/diffusion/test_objective.py"
PATHS = "tests/zoo/objectives/test_paths.py tests/parity/test_schedules.py"
TRAIN = "tests/engine/test_train.py tests/engine/test_resume.py tests/engine/test_optim.py"
AVERAGE = "tests/engine/test_ema.py tests/engine/test_resume.py"
BUGS = (
    Bug("cfg_three_channels", "guidance on three of four channels (DiT 41, Open-Sora 188, SiT, LightningDiT 21)", CFG,
        "            return Estimate(*(torch.lerp(u, c, self.scale) for c, u in zip(with_it, without, strict=True)))",
        "            made = [torch.lerp(u, c, self.scale) for c, u in zip(with_it, without, strict=True)]\n"
        "            return Estimate(*(torch.cat([m[:, :3], c[:, 3:]], 1) for m, c in zip(made, with_it, strict=True)))",
        "tests/zoo/guidance/test_channels.py"),
    Bug("cfg_branches_swapped", "cond and uncond in the other order", CFG,
        "with_it, without = evaluate(x, t, [given.cond, given.uncond])", "without, with_it = evaluate(x, t, [given.cond, given.uncond])", GUIDED),
    Bug("cfg_scale_minus_one", "scale w of the paper taken for 1 + w", CFG,
        "torch.lerp(u, c, self.scale)", "torch.lerp(u, c, self.scale + 1)", GUIDED),
    Bug("cfg_x0_only", "only x0 guided, the noise left as it was", CFG,
        "            return Estimate(*(torch.lerp(u, c, self.scale) for c, u in zip(with_it, without, strict=True)))",
        "            return Estimate(torch.lerp(without.x0, with_it.x0, self.scale), with_it.noise)", GUIDED),
    Bug("null_class_fixed", "null class 1000 whatever the number of classes (diffusers 13616)", "zoo/conditioners/label.py",
        "torch.where(drop, self.num_classes, batch", "torch.where(drop, 0, batch", "tests/zoo/conditioners/test_label.py tests/contracts/test_conditioner.py"),
    Bug("labels_dropped_when_sampling", "label dropout active in evaluation", "vidiff/diffuser.py",
        "keep = torch.zeros(num, dtype=torch.bool, device=device)", "keep = torch.rand(num, device=device) < 0.5",
        "tests/engine/test_conditions.py tests/contracts/test_task.py"),
    Bug("heun_at_t", "Heun's second slope at sigma_hat and not at sigma_next (diffusers 1512)", "zoo/samplers/heun.py",
        "slope + velocity(path, ahead, s)", "slope + velocity(path, ahead, t)", "tests/zoo/samplers/test_heun.py tests/zoo/samplers/test_orders.py"),
    Bug("heun_last_step_corrected", "the slope at sigma = 0 asked for (EDM's last step is Euler's)", "zoo/samplers/heun.py",
        "straight = (path.sigma(times[1:]) == 0) |", "straight = (path.sigma(times[1:]) < 0) |", "tests/contracts/test_checks.py -k sampler-heun-"),
    Bug("ddim_noise_missing", "DDIM without the noise of an x0 prediction (diffusers 1486)", EST,
        "noise = expand(of_x[1], x_t) * x_t + expand(of_y[1], x_t) * y", "noise = y", MATH),
    Bug("noise_not_recomputed_after_clipping", "x0 clipped, the old noise kept", "zoo/samplers/clipped.py",
        "now.noise if self.keep_noise else torch.where(sigma > 0, noise, now.noise)", "now.noise", "tests/parity/test_samplers.py tests/parity/test_samplers_published.py"),
    Bug("last_sigma_repeated", "the last noise level twice, the sample stays noisy (diffusers 6477)", "vidiff/diffusion/sampler.py",
        "clamp(*interval), ends.new_zeros(1)])", "clamp(*interval), ends.new_ones(1) * 0.002])",
        "tests/contracts/test_checks.py -k spacing-karras"),
    Bug("sigma_zero_nan", "division by sigma = 0 at the clean end (diffusers 9007)", EST,
        "blind = (sigma == 0) & ((d == 0) | ~torch.isfinite(d))", "blind = torch.zeros_like(sigma, dtype=torch.bool)", "tests/contracts/test_checks.py -k objective-x0_prediction"),
    Bug("eps_at_zero_snr_allowed", "noise prediction where alpha = 0 is infinite (diffusers 3851)", "vidiff/diffusion/objective.py",
        "        if SINGULAR <= d < float(\"inf\"):\n            return\n", "        return\n", "tests/diffusion/test_objective.py -k refusals"),
    Bug("duplicate_times", "two equal timesteps divide by zero (diffusers 12771)", "zoo/samplers/dpmpp_2m.py",
        "        times = torch.unique_consecutive(times)\n", "", "tests/contracts/test_checks.py -k sampler-dpmpp_2m-"),
    Bug("v_sign", "v with the other sign", "zoo/objectives/predictions/v.py",
        "return -path.sigma(t), path.alpha(t)", "return path.sigma(t), -path.alpha(t)", "tests/zoo/objectives/test_predictions.py tests/parity/test_losses.py"),
    Bug("vp_formula_on_flow", "x0 = alpha x - sigma v where alpha^2 + sigma^2 is not 1", EST,
        "d = alpha * q - sigma * p\n        blind", "d = torch.ones_like(alpha * q)\n        blind", MATH),
    Bug("alpha_sigma_swapped", "t counted from noise to data", "zoo/objectives/paths/linear.py",
        "    def alpha(self, t: Tensor) -> Tensor:\n        return 1 - t\n\n    def sigma(self, t: Tensor) -> Tensor:\n        return t\n",
        "    def alpha(self, t: Tensor) -> Tensor:\n        return t\n\n    def sigma(self, t: Tensor) -> Tensor:\n        return 1 - t\n", PATHS),
    Bug("sigma_squared", "the variance where the deviation is meant", "vidiff/diffusion/path.py",
        "        return torch.sqrt(-torch.expm1(-self.total_beta(t)))", "        return -torch.expm1(-self.total_beta(t))", PATHS),
    Bug("time_times_1000_missing", "t in [0,1] given to a network that knows 0..1000", "zoo/layers/embeddings.py",
        "time_sinusoid(time * self.scale, self.frequencies)", "time_sinusoid(time, self.frequencies)", "tests/zoo/layers/test_embeddings.py tests/contracts/test_backbone.py"),
    Bug("label_off_by_one", "timestep i told as i + 1", "vidiff/diffusion/table.py",
        "return t - 1 / self.num_timesteps", "return t", "tests/diffusion/test_table.py tests/parity/test_schedules.py"),
    Bug("abar_off_by_one", "entry i of alphas_cumprod taken for time i / T", "vidiff/diffusion/table.py",
        "steps.cumsum(0)])", "steps.cumsum(0) - steps])", "tests/diffusion/test_table.py tests/parity/test_schedules.py"),
    Bug("eta_variance", "eta squared where eta is meant", "zoo/samplers/ancestral.py",
        "z = self.eta * posterior_std", "z = self.eta**2 * posterior_std", "tests/zoo/samplers/test_ancestral.py tests/parity/test_samplers.py"),
    Bug("eta_kept_noise", "the kept noise not made smaller for what is added", "zoo/samplers/ancestral.py",
        "kept = torch.sqrt(path.sigma(s) ** 2 - z**2)", "kept = path.sigma(s)", "tests/zoo/samplers/test_ancestral.py"),
    Bug("fresh_noise_at_the_end", "noise added in the last step as well", "zoo/samplers/ddpm.py",
        "torch.where(expand(path.sigma(s), x) > 0, self.std(now, path, t, s, small), 0) * fresh", "0.1 * fresh", "tests/zoo/samplers/test_ddpm.py tests/zoo/samplers/test_ancestral.py"),
    Bug("dpmpp_first_order", "the second-order term of DPM-Solver++ dropped", "zoo/samplers/dpmpp_2m.py",
        "order = order_of(i, known[2], 2, self.lower_order_final)", "order = 1", "tests/zoo/samplers/test_orders.py"),
    Bug("cfg_rescale_whole_batch", "deviations over the batch and not each sample", "zoo/guidance/rescale.py",
        "dim=tuple(range(1, y.ndim))", "dim=tuple(range(y.ndim))", "tests/zoo/guidance/test_rescale.py"),
    Bug("guided_variances", "learned variances of the branch without the condition", "vidiff/guided.py",
        "branch.cond is self.cond), 0)", "branch.cond is not self.cond), 0)", "tests/zoo/samplers/test_ddpm.py"),
    Bug("rows_share_noise", "one noise for all rows of a batch", "vidiff/random.py",
        "generator(seed, *key, row, device=device) for row in", "generator(seed, *key, 0, device=device) for row in", "tests/test_random.py tests/engine/test_train.py"),
    Bug("noise_depends_on_the_batch", "sample 7 depends on how many are drawn", "vidiff/random.py",
        "generator(seed, *key, row, device=device) for row in", "generator(seed, *key, row + len(self.rows), device=device) for row in", "tests/test_random.py tests/test_sampling_cost.py"),
    Bug("target_with_gradient", "gradient through the target", "vidiff/diffusion/objective.py",
        "noise, t).detach()", "noise, t)", LOSS),
    Bug("loss_unweighted", "the weighting forgotten", "vidiff/diffusion/weighting.py",
        "return self(path, prediction, t).to(error.dtype) * error", "return error", "tests/diffusion/test_objective.py"),
    Bug("weights_of_frames_mixed", "one weight for all frames", "vidiff/diffusion/objective.py",
        "        return error.mean(dim=(1, 3, 4))", "        return error.mean(dim=(1, 2, 3, 4))[:, None].expand(t.shape)", LOSS),
    Bug("hybrid_loss_trains_the_mean", "the bound's gradient reaches the noise (iDDPM stops it)", "zoo/objectives/iddpm.py",
        "mean, t).x0.detach()", "mean, t).x0", "tests/parity/test_iddpm.py tests/zoo/objectives/test_losses.py"),
    Bug("variance_halves_swapped", "mean and variance halves of the answer swapped", "zoo/objectives/iddpm.py",
        ".chunk(self.outputs, dim=1)[0]", ".chunk(self.outputs, dim=1)[-1]", "tests/parity/test_iddpm.py tests/contracts/test_backbone_exact.py"),
    Bug("min_snr_of_eps_on_v", "min-SNR's formula for noise used for v", "zoo/objectives/weightings/min_snr.py",
        "space = \"x0\"", "space = \"target\"", "tests/zoo/objectives/test_weightings.py tests/parity/test_losses.py"),
    Bug("ema_reversed", "decay and 1 - decay exchanged", "vidiff/engine/ema.py", "self._live, 1 - curve(step))", "self._live, curve(step))", AVERAGE),
    Bug("ema_aliases_the_model", "the average is the model itself", "vidiff/engine/ema.py",
        "self.module = copy.deepcopy(model, dict(frozen)).eval()", "self.module = model", AVERAGE),
    Bug("ema_not_resumed", "a resumed run begins its average anew", "vidiff/engine/train.py",
        "for line in self.ema.fill(snapshot.tensors, labels_of(snapshot), state[\"step\"]):", "for line in ():", AVERAGE),
    Bug("ema_buffers_forgotten", "buffers of the average stay as they were", "vidiff/engine/ema.py",
        "1 - curve(step))\n        self._copy_buffers()", "1 - curve(step))", AVERAGE),
    Bug("ema_every_pass", "the average moves with every micro-batch (F5-TTS 631)", "vidiff/engine/train.py",
        "            parts.append({name:", "            self.ema and self.ema.update(self.step + 1)\n            parts.append({name:", TRAIN + " tests/engine/test_ema.py"),
    Bug("accumulation_not_divided", "loss not divided by the number of passes (guided-diffusion 111)", "vidiff/engine/train.py",
        "loss = losses[\"loss\"] / (len(self.rows) / len(rows))", "loss = losses[\"loss\"]", TRAIN),
    Bug("schedule_every_other", "the schedule a step behind", "vidiff/engine/optim.py",
        "self._scheduler.step_update(step + 1)", "self._scheduler.step_update(step)", TRAIN + " tests/parity/test_ema_lr.py"),
    Bug("resume_replays_data", "a resumed run meets the first clips again", "vidiff/engine/train.py",
        "for step in range(self.step, config.steps) for part", "for step in range(config.steps) for part", TRAIN),
    Bug("mask_inverted", "True taken for hidden", "zoo/attention/math.py",
        "scores.masked_fill(~mask, lowest).softmax(-1).masked_fill(~mask, 0.0)", "scores.masked_fill(mask, lowest).softmax(-1).masked_fill(mask, 0.0)", "tests/contracts/test_attention.py tests/test_gate.py"),
    Bug("scale_twice", "attention scaled twice", "zoo/attention/math.py",
        "scores = (q * q.shape[-1] ** -0.5)", "scores = (q * q.shape[-1] ** -1.0)", "tests/contracts/test_attention.py tests/test_gate.py"),
    Bug("time_cos_sin_swapped", "[sin, cos] of the time where models were trained with [cos, sin]", "zoo/layers/embeddings.py",
        "torch.cat([angles.cos(), angles.sin()], dim=-1)", "torch.cat([angles.sin(), angles.cos()], dim=-1)", "tests/zoo/layers/test_embeddings.py tests/parity/test_dit.py"),
    Bug("rope_axis", "rotary positions of height along width", "zoo/positions/rotary.py",
        "columns = zip(coords.unbind(-1), self.pairs", "columns = zip(coords.flip(-1).unbind(-1), self.pairs", "tests/zoo/positions/test_rotary.py tests/parity/test_wan.py"),
    Bug("converted_time_not_turned", "SiT's weights asked in the wrong direction of time", "zoo/converters/sit.py",
        "\"time_scale\": 1.0, \"time_from\": time_from}", "\"time_scale\": 1.0}", "tests/parity/test_sit.py tests/parity/test_end_to_end.py"),
    Bug("normalised_twice", "video in [-1,1] normalised again", "vidiff/video/pixels.py",
        "if video.dtype == torch.uint8 else video).to(dtype)", "if video.dtype == torch.uint8 else video / 127.5 - 1.0).to(dtype)", "tests/video/test_pixels.py tests/engine/test_oracle_runs.py"),
    Bug("transfer_unscaled", "x not rescaled on the way to another path", "vidiff/diffusion/transfer.py",
        "return aimed(expand(scale, x) * x, t_trained)", "return aimed(x, t_trained)", "tests/diffusion/test_transfer.py"),
    Bug("start_unscaled", "sampling starts from unit noise where sigma is 80", "vidiff/diffusion/sampler.py",
        "return expand(path.norm(t), noise) * noise", "return noise", "tests/diffusion/test_sampler.py"),
    Bug("zero_snr_forgotten", "the last step of a rescaled table not at zero signal", "vidiff/diffusion/table.py",
        "bool(betas[-1] == 1)", "False", "tests/zoo/objectives/test_zero_snr.py"),
    Bug("white_start", "a model of mixed or offset noise sampled from white noise (PYoCo, offset noise)", "vidiff/diffuser.py",
        "PriorRandom(objective.noise, random), Grid", "PriorRandom(lambda shape, dice, dtype: dice.normal(shape, dtype), random), Grid",
        "tests/test_sampling_cost.py -k prior"),
)  # fmt: skip


def plant(folder: Path, bug: Bug) -> None:
    """Into the copy. Raises ValueError when the right text is not there exactly once: the sources moved on."""
    file = folder / bug.file
    text = file.read_text(encoding="utf-8")
    if text.count(bug.right) != 1:
        raise ValueError(
            f"{bug.name}: {bug.file} has the text to change {text.count(bug.right)} times: update the list"
        )
    file.write_text(text.replace(bug.right, bug.wrong), encoding="utf-8")


def copy_sources(folder: Path) -> None:
    """What tests need, without runs, data and caches."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "runs")
    for name in COPIED:
        source = ROOT / name
        shutil.copytree(source, folder / name, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)


def noticed(folder: Path, bug: Bug) -> str | None:
    """The first test that fails with the bug planted, or None: it survived."""
    original = (folder / bug.file).read_text(encoding="utf-8")
    plant(folder, bug)
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *bug.tests.split()]
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    finally:
        (folder / bug.file).write_text(original, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise ValueError(f"{bug.name}: pytest ended with {done.returncode}: {done.stderr[-300:]}{done.stdout[-300:]}")
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))]
    return failed[0].partition("[")[0] if failed else None


HEAD = """# Field bugs

Known bugs of other codes, planted into ours one at a time: {killed} of {total} were noticed by the tests named. Written by
`python -m tests.field_bugs` ([field_bugs.py](../tests/field_bugs.py)), which changes a copy of the sources and never the tree.

| bug | planted in | what it was | noticed by |
|---|---|---|---|
"""


def page(results: dict[Bug, str | None]) -> str:
    """The list and how it came out."""
    rows = [
        f"| {bug.name} | [{Path(bug.file).name}](../{bug.file}) | {bug.field} | {f'`{by}`' if by else '**nobody**'} |\n"
        for bug, by in results.items()
    ]
    return HEAD.format(killed=sum(by is not None for by in results.values()), total=len(results)) + "".join(rows)


def main(wanted: list[str]) -> int:
    """Plant those named, or all and write the page; 1 when one survives."""
    bugs = [bug for bug in BUGS if not wanted or bug.name in wanted]
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_sources(folder)
        for bug in bugs:
            results[bug] = noticed(folder, bug)
            print(f"{bug.name:<40} {results[bug] or 'SURVIVED'}", flush=True)
    if not wanted:
        PAGE.write_text(page(results), encoding="utf-8")
    return int(None in results.values())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
