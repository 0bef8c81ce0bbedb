"""Trajectories of diffusers' schedulers in float64, stored as numbers in data/samplers: diffusers_more, diffusers_rest.

Run it where diffusers 0.42.1 is installed (no test needs that): python tests/parity/make_references.py. It lifts the
schedulers' casts to float32, gives each an exact denoiser of a Gaussian mixture and stored noise, and keeps the states.
"""

import importlib
import json
import platform
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).parent / "data" / "samplers"
SEED, ROWS = 977, 5
LATENT = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True)
UNIPC, DEIS, DPM, SINGLE, K2A, FLOW_EULER, PNDM = (
    ("unipc_multistep", "UniPCMultistepScheduler"),
    ("deis_multistep", "DEISMultistepScheduler"),
    ("dpmsolver_multistep", "DPMSolverMultistepScheduler"),
    ("dpmsolver_singlestep", "DPMSolverSinglestepScheduler"),
    ("k_dpm_2_ancestral_discrete", "KDPM2AncestralDiscreteScheduler"),
    ("flow_match_euler_discrete", "FlowMatchEulerDiscreteScheduler"),
    ("pndm", "PNDMScheduler"),
)
RUNS = {
    "unipc_2": (UNIPC, {**LATENT}, 9),
    "unipc_3_bh1": (UNIPC, {**LATENT, "solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}, 11),
    "unipc_3_karras_v": (UNIPC, {**LATENT, "solver_order": 3, "use_karras_sigmas": True, "prediction_type": "v_prediction"}, 8),
    "unipc_1_sample": (UNIPC, {**LATENT, "solver_order": 1, "prediction_type": "sample"}, 6),
    "unipc_2_sigma_min": (UNIPC, {**LATENT, "final_sigmas_type": "sigma_min", "timestep_spacing": "leading"}, 7),
    "unipc_2_predictor_only": (UNIPC, {**LATENT, "disable_corrector": list(range(20))}, 7),
    "unipc_2_noise": (UNIPC, {**LATENT, "predict_x0": False, "final_sigmas_type": "sigma_min"}, 8),
    "unipc_3_noise_bh1": (UNIPC, {**LATENT, "predict_x0": False, "final_sigmas_type": "sigma_min", "solver_order": 3, "solver_type": "bh1"}, 9),
    "unipc_2_flow_shift3": (UNIPC, {**FLOW, "flow_shift": 3.0}, 10),
    "deis_2": (DEIS, {**LATENT}, 9),
    "deis_3": (DEIS, {**LATENT, "solver_order": 3}, 10),
    "deis_3_long": (DEIS, {**LATENT, "solver_order": 3, "prediction_type": "v_prediction"}, 16),
    "deis_1": (DEIS, {**LATENT, "solver_order": 1}, 5),
    "dpm_1": (DPM, {**LATENT, "algorithm_type": "dpmsolver", "solver_order": 1, "final_sigmas_type": "sigma_min"}, 6),
    "dpm_2": (DPM, {**LATENT, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, 9),
    "dpm_2_heun": (DPM, {**LATENT, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "solver_type": "heun"}, 7),
    "dpm_3": (DPM, {**LATENT, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": 3}, 10),
    "sde_dpm_1": (DPM, {**LATENT, "algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": 1}, 6),
    "sde_dpm_2": (DPM, {**LATENT, "algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}, 9),
    "sde_dpm_2_heun": (DPM, {**LATENT, "algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min", "solver_type": "heun"}, 8),
    "dpmpp_3_heun_karras": (DPM, {**LATENT, "solver_order": 3, "solver_type": "heun", "use_karras_sigmas": True}, 10),
    "sde_dpmpp_1": (DPM, {**LATENT, "algorithm_type": "sde-dpmsolver++", "solver_order": 1}, 6),
    "sde_dpmpp_2_heun": (DPM, {**LATENT, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, 8),
    "sde_dpmpp_3": (DPM, {**LATENT, "algorithm_type": "sde-dpmsolver++", "solver_order": 3}, 10),
    "sde_dpmpp_2_flow": (DPM, {**FLOW, "flow_shift": 2.0, "algorithm_type": "sde-dpmsolver++"}, 9),
    "single_1": (SINGLE, {**LATENT, "solver_order": 1}, 5),
    "single_2": (SINGLE, {**LATENT}, 9),
    "single_2_heun_even": (SINGLE, {**LATENT, "solver_type": "heun"}, 8),
    "single_3_karras": (SINGLE, {**LATENT, "solver_order": 3, "use_karras_sigmas": True}, 10),
    "single_3_heun_v": (SINGLE, {**LATENT, "solver_order": 3, "solver_type": "heun", "prediction_type": "v_prediction"}, 9),
    "dpm2_ancestral": (K2A, {**LATENT}, 8),
    "dpm2_ancestral_karras": (K2A, {**LATENT, "use_karras_sigmas": True}, 6),
}  # fmt: skip
END = {"final_sigmas_type": "sigma_min"}
REST = {
    "dpmpp_2_beta": (DPM, {**LATENT, "use_beta_sigmas": True}, 9),
    "dpmpp_2_beta_v_sigma_min": (DPM, {**LATENT, **END, "use_beta_sigmas": True, "prediction_type": "v_prediction"}, 7),
    "dpmpp_3_sigma_min": (DPM, {**LATENT, **END, "solver_order": 3}, 8),
    "sde_dpmpp_3_heun": (DPM, {**LATENT, **END, "algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun"}, 16),
    "dpmpp_2_flow": (DPM, {**FLOW, "flow_shift": 5.0}, 8),
    "unipc_2_zero_snr_v": (UNIPC, {**LATENT, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}, 9),
    "deis_2_exponential": (DEIS, {**LATENT, "use_exponential_sigmas": True, "solver_order": 2}, 16),
    "single_2_even_final": (SINGLE, {**LATENT, **END, "lower_order_final": True}, 8),
    "single_3_final": (SINGLE, {**LATENT, **END, "solver_order": 3, "lower_order_final": True, "prediction_type": "v_prediction"}, 9),
    "single_2_noise": (SINGLE, {**LATENT, **END, "algorithm_type": "dpmsolver"}, 8),
    "single_3_noise": (SINGLE, {**LATENT, **END, "algorithm_type": "dpmsolver", "solver_order": 3}, 9),
    "single_3_noise_heun": (SINGLE, {**LATENT, **END, "algorithm_type": "dpmsolver", "solver_order": 3, "solver_type": "heun"}, 6),
    "single_2_sde_heun": (SINGLE, {**LATENT, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, 8),
    "single_3_sde": (SINGLE, {**LATENT, "algorithm_type": "sde-dpmsolver++", "solver_order": 3}, 9),
    "single_3_sde_heun": (SINGLE, {**LATENT, "algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun"}, 9),
    "flow_euler_karras": (FLOW_EULER, {"use_karras_sigmas": True}, 7),
    "flow_euler_exponential": (FLOW_EULER, {"use_exponential_sigmas": True}, 6),
    "flow_euler_beta": (FLOW_EULER, {"use_beta_sigmas": True}, 8),
    "pndm": (PNDM, {**LATENT, "skip_prk_steps": True, "set_alpha_to_one": True}, 10),
    "pndm_first_entry": (PNDM, {**LATENT, "skip_prk_steps": True, "steps_offset": 1}, 8),
    "pndm_prk": (PNDM, {"set_alpha_to_one": True}, 10),
}  # fmt: skip


class Lifted:
    """A module whose float32 is float64."""

    def __init__(self, module):
        self.module, self.float32 = module, module.float64

    def __getattr__(self, name):
        return getattr(self.module, name)


def scheduler_of(file, name, settings, noise):
    module = importlib.import_module(f"diffusers.schedulers.scheduling_{file}")
    for library in ("torch", "np"):
        if not isinstance(getattr(module, library), Lifted):
            setattr(module, library, Lifted(getattr(module, library)))
    draws = iter(noise)
    module.randn_tensor = lambda shape, **_: next(draws)
    return getattr(module, name)(**settings)


def believe(gmm, x, alpha, sigma):
    """E[x0 | x] of isotropic Gaussians."""
    variance = alpha**2 * gmm["stds"] ** 2 + sigma**2
    off = x[:, None] - alpha * gmm["means"]
    shares = torch.softmax(gmm["weights"].log() - (off**2 / variance[:, None]).sum(-1) / 2 - x.shape[1] / 2 * variance.log(), 1)  # fmt: skip
    return (shares[..., None] * (gmm["means"] + (alpha * gmm["stds"] ** 2 / variance)[:, None] * off)).sum(1)


def answer(kind, x0, x, alpha, sigma):
    noise = (x - alpha * x0) / sigma
    return {"epsilon": noise, "sample": x0, "v_prediction": alpha * noise - sigma * x0, "flow_prediction": noise - x0}[
        kind
    ]


def run(gmm, start, noise, maker, settings, steps):
    scheduler = scheduler_of(*maker, settings, noise)
    scheduler.set_timesteps(steps)
    exploding, flow = maker is K2A, maker is FLOW_EULER or settings.get("use_flow_sigmas", False)
    table = None if maker is not PNDM else ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    levels = scheduler.sigmas.double() if table is None else table[scheduler.timesteps]
    scheduler.sigmas = levels
    if exploding:
        scheduler.sigmas_interpol = scheduler.sigmas_interpol.double()
    sigma = levels[0]
    alpha = torch.ones_like(sigma) if exploding else 1 - sigma if flow else 1 / (1 + sigma**2).sqrt()
    x = start * (sigma if exploding else sigma if flow else 1.0)
    states = [x]
    for i, t in enumerate(scheduler.timesteps):
        index = i if maker is PNDM else scheduler.step_index or 0
        second = exploding and not scheduler.state_in_first_order
        sigma = scheduler.sigmas_interpol[index - 1] if second else scheduler.sigmas[index]
        alpha = torch.ones_like(sigma) if exploding else 1 - sigma if flow else 1 / (1 + sigma**2).sqrt()
        sigma = sigma if exploding or flow else alpha * sigma
        kind = "flow_prediction" if flow else settings.get("prediction_type", "epsilon")
        told = answer(kind, believe(gmm, x, alpha, sigma), x, alpha, sigma)
        multistep = maker is DPM and settings.get("algorithm_type", "").startswith("sde")
        extra = {"variance_noise": noise[i]} if multistep else {}
        x = scheduler.step(told, t, x, **extra).prev_sample
        states.append(x)
    return {"out.sigmas": levels, "out.states": torch.stack(states)}


def make(name, runs_made):
    import diffusers

    g = torch.Generator().manual_seed(SEED)
    gmm = {
        "weights": torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64),
        "means": torch.randn(3, 4, generator=g, dtype=torch.float64),
        "stds": torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64),
    }
    start = torch.randn(ROWS, 4, generator=g, dtype=torch.float64)
    noise = torch.randn(20, ROWS, 4, generator=g, dtype=torch.float64)
    tensors = {f"gmm.{k}": v for k, v in gmm.items()} | {"in.start": start, "in.noise": noise}
    runs = {}
    for which, (maker, settings, steps) in runs_made.items():
        found = run(gmm, start, noise, maker, settings, steps)
        tensors |= {f"{which}/{k}": v for k, v in found.items()}
        runs[which] = {"scheduler": maker[1], "init": settings, "num_inference_steps": steps}
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, OUT / f"{name}.safetensors")
    about = {
        "summary": "diffusers schedulers in float64 on an exact denoiser of a Gaussian mixture",
        "source": {"repo": "huggingface/diffusers", "commit": f"PyPI release {diffusers.__version__}", "licence": "Apache-2.0", "file": "schedulers/*"},
        "made_by": "tests/parity/make_references.py",
        "seed": SEED,
        "notes": ["float32 casts of the schedulers lifted to float64", "the denoiser is asked at the scheduler's own sigma"],
        "runs": runs,
        "versions": {"torch": torch.__version__, "python": platform.python_version(), "diffusers": diffusers.__version__},
    }  # fmt: skip
    (OUT / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    make("diffusers_more", RUNS)
    make("diffusers_rest", REST)
