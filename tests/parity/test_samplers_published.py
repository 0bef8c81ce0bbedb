"""More trajectories of the published samplers, state by state in float64: every run that test_samplers.py leaves out."""

import pytest
import torch

from tests.parity.test_samplers import F64, Recorded, Run, clean, same
from vidiff.diffusion.path import Path
from vidiff.registry import build


def run_of(run, sampler, path, times, prediction="x0", calls=1):
    """x before every step, and at the end; `calls` of the network make a step (but the last)."""
    path, sampler = (build(kind, node) if isinstance(node, (str, dict)) else node
                     for kind, node in (("path", path), ("sampler", sampler)))  # fmt: skip
    seen, estimate = [], run.mixture.through(build("prediction", prediction), path)
    out = sampler(
        lambda x, t: seen.append(x) or estimate(x, t),
        run["out.states"][0],
        times,
        path,
        Recorded(run.tensors.get("in.noise")),
    )
    return torch.stack([*seen[::calls], out])


def levels_on(path, sigmas):
    """The times of noise levels that end with 0, or with one above it."""
    path, above = build("path", path) if isinstance(path, (str, dict)) else path, sigmas[sigmas > 0]
    times = path.time(-2 * above.log())
    return times if len(above) == len(sigmas) else clean(times)


def ve(run, key="in.sigmas", top=None):
    top = top or float(run[key][0])
    return {"name": "ve", "sigma_max": top}, run[key] / top


# ---- SiT, flow_matching: Runge-Kutta in t of dx/dt ----


@pytest.mark.parametrize(
    ("file", "name", "path", "prediction", "sampler", "calls"),
    [
        ("a", "linear_velocity_heun2", "linear", "velocity", "heun2", 2),
        ("a", "gvp_velocity_euler", "gvp", "velocity", "ode_euler", 1),
        ("a", "gvp_noise_euler", "gvp", "eps", "ode_euler", 1),
        ("a", "vp_velocity_euler", "vp", "velocity", "ode_euler", 1),
        ("a", "vp_score_euler", "vp", "score", "ode_euler", 1),
        ("a", "linear_score_midpoint", "linear", "score", "midpoint", 2),
        ("c", "gvp_velocity_heun3", "gvp", "velocity", "heun3", 3),
        ("c", "vp_noise_euler", "vp", "eps", "ode_euler", 1),
        ("c", "gvp_score_euler", "gvp", "score", "ode_euler", 1),
        ("c", "vp_velocity_rk4", "vp", "velocity", "rk4", 4),
        ("c", "gvp_velocity_reverse", "gvp", "velocity", "ode_euler", 1),
    ],
)
def test_sit(file, name, path, prediction, sampler, calls):
    run = Run(f"sit_ode_{file}", name)
    same(run_of(run, sampler, path, 1 - run["out.t"], prediction, calls), run["out.states"])


@pytest.mark.parametrize("name", ["euler", "heun"])
@pytest.mark.parametrize("file", ["nanosora_sampler_a", "nanosora_sampler_c"])
def test_nano_sora_to_the_end(file, name):
    """`heun2` corrects the last step too, as theirs does."""
    run = Run(file, name)
    times = build("spacing", "uniform")(len(run["out.states"]) - 1, build("path", "linear"), (0.0, 1.0))
    sampler, calls = ("euler", 1) if name == "euler" else ("heun2", 2)
    same(run_of(run, sampler, "linear", times, "velocity", calls), run["out.states"])


@pytest.mark.parametrize(
    ("file", "name", "path", "sampler", "calls"),
    [
        ("a", "condot_heun3_grid", "linear", "heun3", 3),
        ("a", "cosine_euler_grid", "gvp", "ode_euler", 1),
        ("a", "vp_euler_grid", "vp", "ode_euler", 1),
        ("c", "poly3_euler", {"name": "polynomial", "power": 3.0}, "ode_euler", 1),
    ],
)
def test_flow_matching_on_its_grid(file, name, path, sampler, calls):
    run = Run(f"flow_matching_ode_{file}", name)
    same(run_of(run, sampler, path, 1 - run["in.time_grid"], "x0", calls), run["out.states"])


@pytest.mark.parametrize(
    ("file", "name", "path", "sampler", "size"),
    [
        ("a", "condot_midpoint_step0.2", "linear", "midpoint", 0.2),
        ("a", "condot_reverse_euler", "linear", "ode_euler", 0.125),
        ("c", "vp_midpoint", "vp", "midpoint", 0.11),
        ("c", "cosine_rk4", "gvp", "rk4", 0.2),
    ],
)
def test_flow_matching_with_a_step_size(file, name, path, sampler, size):
    run = Run(f"flow_matching_ode_{file}", name)
    first, last = 1 - run["in.time_grid"]
    times = torch.linspace(first, last, round(float(abs(first - last)) / size) + 1, dtype=F64)
    same(run_of(run, sampler, path, times, "x0")[-1:], run["out.states"][-1:])


@pytest.mark.parametrize(
    ("file", "name", "grid", "rtol", "atol"),
    [
        ("sit_ode_a", "linear_velocity_dopri5", "out.t", 1e-3, 1e-6),
        ("flow_matching_ode_a", "condot_dopri5", "in.time_grid", 1e-6, 1e-6),
    ],
)
def test_dopri5_within_ten_tolerances(file, name, grid, rtol, atol):
    """Their steps are chosen for the batch, ours for each sample: they agree as far as the tolerance promises."""
    run, sampler = Run(file, name), {"name": "dopri5", "rtol": rtol, "atol": atol}
    times = 1 - run[grid]
    for k in range(1, len(times)):
        found = run_of(run, sampler, "linear", times[[0, k]])[-1]
        assert torch.allclose(found, run["out.states"][k], rtol=10 * rtol, atol=10 * rtol)


# ---- EDM ----


@pytest.mark.parametrize(
    ("file", "name", "settings", "spacing"),
    [
        ("a", "stochastic_churn", {"churn": 5.0, "s_min": 0.05, "s_max": 10.0, "s_noise": 1.007}, {}),
        ("c", "stochastic_max_gamma", {"churn": 1000.0}, {}),
    ],
)
def test_edm_stochastic(file, name, settings, spacing):
    """Theirs may churn above sigma_max 80 at the first step: so may ours on a path that goes further."""
    run, path = Run(f"edm_sampler_{file}", name), {"name": "ve", "sigma_max": 200.0}
    grid = build("spacing", {"name": "karras", "sigma_max": 80.0, "sigma_min": 0.002})
    times = grid(len(run["out.states"]) - 1, build("path", path), (0.0, 1.0))
    out = run_of(run, {"name": "edm_stochastic", **settings}, path, times, "edm")
    same(out[-1:], run["out.states"][-1:])


def test_edm_ablation_with_euler_on_the_vp_path():
    run, vp = Run("edm_sampler_c", "ablation_vp_euler"), build("path", "vp")
    same(run_of(run, "ode_euler", "vp", levels_on(vp, clean(run["aux.model_sigmas"]))), run["out.states"])


class RootVe(Path):
    """sigma = 100 sqrt(t): the VE schedule of EDM's ablation."""

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return 100 * t.sqrt()

    def alpha_dot(self, t):
        return torch.zeros_like(t)

    def sigma_dot(self, t):
        return 50 / t.sqrt()


@pytest.mark.parametrize(
    ("file", "name", "path", "prediction"),
    [("a", "ablation_vp_heun", build("path", "vp"), "v"), ("c", "ablation_edm_ve_heun", RootVe(), "x0")],
)
def test_edm_ablation_with_heun_and_their_last_step(file, name, path, prediction):
    """`heun` ends on the denoised x0; `ode_euler` makes the last step of theirs."""
    run = Run(f"edm_sampler_{file}", name)
    sigmas = torch.cat([run["aux.model_sigmas"][:1], run["aux.model_sigmas"][1::2]])
    times = levels_on(path, clean(sigmas))
    found = run_of(run, "heun", path, times, prediction, calls=2)
    same(found[:-1], run["out.states"][:-1])
    run.tensors["out.states"] = run["out.states"][-2:]
    same(run_of(run, "ode_euler", path, times[-2:], prediction), run["out.states"])


# ---- k-diffusion ----


@pytest.mark.parametrize(
    ("file", "name", "sampler", "calls"),
    [
        ("a", "dpm_2", "dpm2", 2),
        ("a", "lms", "lms", 1),
        ("a", "dpmpp_2m", "dpmpp_2m", 1),
        ("a", "dpmpp_2m_exponential", "dpmpp_2m", 1),
        ("a", "dpmpp_2m_sde", "dpmpp_2m_sde", 1),
        ("c", "lms_order2", {"name": "lms", "order": 2}, 1),
        ("c", "dpmpp_2m_poly", "dpmpp_2m", 1),
        ("c", "euler_ancestral_eta0.5", {"name": "ancestral", "eta": 0.5, "s_noise": 0.98}, 1),
        ("c", "dpmpp_2m_sde_heun", {"name": "dpmpp_2m_sde", "eta": 0.7, "solver": "heun"}, 1),
    ],
)
def test_k_diffusion(file, name, sampler, calls):
    run = Run(f"k_diffusion_{file}", name)
    same(run_of(run, sampler, *ve(run), "x0", calls), run["out.states"])


@pytest.mark.parametrize(
    ("file", "name", "sampler", "calls"),
    [
        ("a", "euler_churn", {"name": "euler_churn", "churn": 4.0, "s_min": 0.05, "s_max": 8.0, "s_noise": 1.01}, 1),
        ("c", "dpm_2_churn", {"name": "dpm2", "churn": 3.0}, 2),
    ],
)
def test_k_diffusion_with_churn(file, name, sampler, calls):
    """Their states are those after the noise was added, but for the first step, which starts as ours does."""
    run = Run(f"k_diffusion_{file}", name)
    top = 2 * float(run["in.sigmas"][0])
    start = run["in.unit_noise"] * run["in.sigmas"][0]
    states, run.tensors["out.states"] = run["out.states"], start[None]
    same(run_of(run, sampler, *ve(run, top=top), "x0", calls), states)


# ---- diffusers: DPM-Solver, and the k-diffusion family on sigmas ----


@pytest.mark.parametrize(
    ("file", "name", "sampler"),
    [
        ("a", "dpmpp_2m", "dpmpp_2m"),
        ("a", "dpmpp_2m_karras", "dpmpp_2m"),
        ("a", "dpmpp_3m", "dpmpp_3m"),
        ("a", "dpmpp_2m_heun_sigma_min", {"name": "dpmpp_2m", "solver": "heun"}),
        ("a", "sde_dpmpp_2m", "dpmpp_2m_sde"),
        ("c", "dpmpp_2m_lu", "dpmpp_2m"),
        ("c", "dpmpp_1", "euler"),
        ("c", "sde_dpmpp_2m_karras", "dpmpp_2m_sde"),
        ("c", "dpmpp_2m_no_lower_order_final", {"name": "dpmpp_2m", "lower_order_final": False}),
    ],
)
def test_diffusers_dpm_solver(file, name, sampler):
    """Below 15 steps theirs ends with lower orders, unless told not to."""
    run, node = Run(f"diffusers_dpmsolver_{file}", name), dict(name=sampler) if isinstance(sampler, str) else sampler
    node = node if node["name"] == "euler" else {"lower_order_final": True, **node}
    times = levels_on("ddpm_scaled_linear", run["out.sigmas"])
    same(run_of(run, node, "ddpm_scaled_linear", times, "eps"), run["out.states"])


def test_diffusers_dpm_solver_on_the_linear_path():
    run = Run("diffusers_dpmsolver_a", "dpmpp_2m_flow_shift3")
    node = {"name": "dpmpp_2m", "lower_order_final": True}
    same(run_of(run, node, "linear", run["out.sigmas"], "velocity"), run["out.states"])


def test_diffusers_dpm_solver_at_zero_snr():
    """Their last entry is 2^-24 instead of 0, so that its logarithm is finite."""
    run = Run("diffusers_dpmsolver_c", "dpmpp_2m_zero_snr_v_trailing")
    path = build("path", {"name": "zero_snr", "last": 2.0**-24})
    times = build("spacing", "trailing")(10, path, (0.0, 1.0))
    assert torch.allclose(path.sigma(times) / path.alpha(times), run["out.sigmas"], rtol=1e-9)
    node = build("sampler", {"name": "dpmpp_2m", "lower_order_final": True})
    same(run_of(run, node, path, times, "v"), run["out.states"])


@pytest.mark.parametrize(
    ("file", "name"), [("diffusers_flow_edm_a", "edm_dpmpp_2m"), ("diffusers_flow_c", "edm_dpmpp_2m_exponential")]
)
def test_diffusers_edm_dpm_solver(file, name):
    run = Run(file, name)
    node = {"name": "dpmpp_2m", "lower_order_final": True}
    same(run_of(run, node, *ve(run, "out.sigmas"), "edm"), run["out.states"])


@pytest.mark.parametrize(
    ("name", "sampler", "prediction"),
    [("euler", "euler", "eps"), ("euler_karras_v", "euler", "v"), ("lms", "lms", "eps")],
)
def test_diffusers_on_sigmas(name, sampler, prediction):
    run = Run("diffusers_k_a", name)
    same(run_of(run, sampler, *ve(run, "out.sigmas"), prediction), run["out.states"])


def test_diffusers_heun_on_sigmas():
    run = Run("diffusers_k_a", "heun")
    path, times = ve(run, "out.sigmas")
    found = run_of(run, "heun", path, torch.cat([times[:1], times[1::2]]), "eps", calls=2)
    states = run["out.states"]  # one per call of the network
    same(found, torch.cat([states[:-1:2], states[-1:]]))


def test_diffusers_stochastic_flow():
    run = Run("diffusers_flow_c", "flow_euler_stochastic")
    same(run_of(run, "consistency", "linear", run["out.sigmas"], "velocity"), run["out.states"])


# ---- DDPM and DDIM ----


@pytest.mark.parametrize(
    ("name", "path", "prediction", "sampler"),
    [
        ("ddim_zero_snr_trailing_v", "zero_snr", "v", "euler"),
        ("cogvideox_ddim_v", {"name": "zero_snr", "shift": 3.0}, "v", "euler"),
    ],
)
def test_diffusers_ddim_at_zero_snr(name, path, prediction, sampler):
    run = Run("diffusers_ddpm_ddim_a", name)
    times = build("spacing", "trailing")(len(run["out.states"]) - 1, build("path", path), (0.0, 1.0))
    same(run_of(run, sampler, path, times, prediction), run["out.states"])


def test_diffusers_ddpm_with_the_large_variance():
    run = Run("diffusers_ddpm_ddim_c", "ddpm_large_linspace")
    times = build("spacing", "respaced")(9, build("path", "ddpm"), (0.0, 1.0))
    same(run_of(run, {"name": "ddpm", "variance": "large"}, "ddpm", times, "eps"), run["out.states"])


def test_diffusers_ddim_steps_by_a_tenth_wherever_it_is():
    """With linspace their timesteps are 111 apart and their steps 100 long: x is never where the network is told."""
    run, path = Run("diffusers_ddpm_ddim_a", "ddim_eta0.5_linspace"), build("path", "ddpm_scaled_linear")
    draws, sampler = Recorded(run["in.noise"]), build("sampler", {"name": "ancestral", "eta": 0.5})
    x, estimate = run["out.states"][0], run.mixture.through(build("prediction", "eps"), path)
    for timestep, expected in zip(run["out.timesteps"], run["out.states"][1:], strict=True):
        times = (torch.stack([timestep, timestep - 100]) + 1).clamp(min=0) / 1000
        x = sampler(estimate, x, times, path, draws)
        same(x[None], expected[None])


def test_diffusers_ddim_that_clips_and_keeps_the_noise():
    run = Run("diffusers_ddpm_ddim_c", "ddim_clip")
    times = build("spacing", "leading")(10, build("path", "ddpm"), (0.0, 1.0))
    node = {"name": "clipped", "steps": 10, "keep_noise": True}
    same(run_of(run, node, "ddpm", times, "eps"), run["out.states"])


@pytest.mark.parametrize(
    ("file", "name", "path", "prediction", "spacing", "sampler"),
    [
        ("a", "ddpm_fixed_large", "ddpm", "eps", "respaced", {"name": "ddpm", "variance": "large"}),
        ("a", "ddpm_fixed_small", "ddpm", "eps", "respaced", "ddpm"),
        ("a", "ddpm_x0_cosine", "ddpm_cosine", "x0", "respaced", {"name": "ddpm", "variance": "large"}),
        ("c", "ddpm_250_of_1000_first_sections", "ddpm", "eps", {"name": "sections", "shares": (5, 3, 2)},
         {"name": "ddpm", "variance": "large"}),
        ("c", "ddim_clip_x0", "ddpm", "x0", "respaced",
         {"name": "clipped", "steps": 15, "sampler": {"name": "ancestral", "eta": 0.3}}),
    ],
)  # fmt: skip
def test_improved_diffusion(file, name, path, prediction, spacing, sampler):
    run = Run(f"gaussian_diffusion_{file}", name)
    times = build("spacing", spacing)(len(run["out.states"]) - 1, build("path", path), (0.0, 1.0))
    assert torch.equal((1000 * times[:-1]).round().long() - 1, run["out.timestep_map"].flip(0))
    same(run_of(run, sampler, path, times, prediction), run["out.states"])


@pytest.mark.parametrize(
    ("file", "name", "clip"), [("a", "ddpm_learned_range_clip", True), ("c", "ddpm_learned_range", False)]
)
def test_improved_diffusion_with_learned_variances(file, name, clip):
    """Their network answered sin(x) for the variances."""
    run, path = Run(f"gaussian_diffusion_{file}", name), build("path", "ddpm")
    exact, node = run.mixture.through(build("prediction", "eps"), path), {"name": "ddpm", "variance": "learned"}
    times = build("spacing", "respaced")(len(run["out.states"]) - 1, path, (0.0, 1.0))
    seen = []

    def estimate(x, t):
        seen.append(x)
        return exact(x, t).spread((x.sin() + 1) / 2)

    sampler = build("sampler", {"name": "clipped", "steps": 10, "sampler": node} if clip else node)
    out = sampler(estimate, run["out.states"][0], times, path, Recorded(run["in.noise"]))
    same(torch.stack([*seen, out]), run["out.states"])


class Beyond(Path):
    """The table of `ddpm`, and pure noise after its last entry: where their inversion ends."""

    def __init__(self):
        self.table = build("path", "ddpm")

    def alpha(self, t):
        return torch.where(t > 1, torch.zeros_like(t), self.table.alpha(t.clamp(max=1)))

    def sigma(self, t):
        return torch.where(t > 1, torch.ones_like(t), self.table.sigma(t.clamp(max=1)))


def test_improved_diffusion_ddim_inversion_to_pure_noise():
    run = Run("gaussian_diffusion_a", "ddim_reverse")
    times = torch.cat([(run["out.timestep_map"].double() + 1) / 1000, torch.tensor([1.1], dtype=F64)])
    same(run_of(run, "euler", Beyond(), times, "eps"), run["out.states"])
