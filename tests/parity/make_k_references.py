"""Runs of k-diffusion's samplers in float64, stored as numbers in data/samplers/k_diffusion_rest.

No test needs it: python tests/parity/make_k_references.py FOLDER, with a checkout of crowsonkb/k-diffusion at 4601bf08.
Its sampling.py is imported alone, with the exact denoiser and the stored noise of make_references.py.
"""

import importlib
import inspect
import json
import platform
import sys
from pathlib import Path
from types import ModuleType

import torch
from make_references import OUT, ROWS, SEED, believe
from safetensors.torch import save_file

F64 = torch.float64
SIGMAS = torch.tensor([14.6, 6.0, 2.5, 1.0, 0.4, 0.1, 0.03, 0.0], dtype=F64)
RUNS = {
    **{f"dpm_fast_{n}": ("sample_dpm_fast", {"n": n}) for n in (5, 7, 9)},
    "dpm_fast_8_eta0.6": ("sample_dpm_fast", {"n": 8, "eta": 0.6, "s_noise": 1.01}),
    "dpm_fast_6_eta1": ("sample_dpm_fast", {"n": 6, "eta": 1.0}),
    "dpm_adaptive_3": ("sample_dpm_adaptive", {}),
    "dpm_adaptive_2_tight": ("sample_dpm_adaptive", {"order": 2, "rtol": 0.01, "atol": 0.001}),
    "dpm_adaptive_3_pid": ("sample_dpm_adaptive", {"pcoeff": 0.4, "icoeff": 0.3, "dcoeff": 0.1, "rtol": 0.02}),
    "dpm_adaptive_3_eta1": ("sample_dpm_adaptive", {"eta": 1.0, "s_noise": 0.98, "h_init": 1.5}),
    "dpmpp_sde_r0.3": ("sample_dpmpp_sde", {"r": 0.3}),
    "dpmpp_sde_r0.7_eta0.8": ("sample_dpmpp_sde", {"r": 0.7, "eta": 0.8, "s_noise": 0.97}),
}


def sampling(folder):
    """k_diffusion/sampling.py, without what else the package imports."""
    package, utils = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
    package.__path__, utils.append_dims = (
        [str(Path(folder) / "k_diffusion")],
        lambda x, n: x.reshape(-1, *[1] * (n - 1)),
    )
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils, "torchsde": ModuleType("torchsde")}
    return importlib.import_module("k_diffusion.sampling")


def main(folder):
    made, g = sampling(folder), torch.Generator().manual_seed(SEED + 1)
    torch.set_default_dtype(F64)
    gmm = {
        "weights": torch.tensor([0.25, 0.35, 0.4]),
        "means": torch.randn(3, 4, generator=g),
        "stds": torch.tensor([0.4, 0.2, 0.6]),
    }
    start, noise = torch.randn(ROWS, 4, generator=g), torch.randn(40, ROWS, 4, generator=g)
    tensors, runs = {f"gmm.{k}": v for k, v in gmm.items()} | {"in.sigmas": SIGMAS, "in.noise": noise}, {}
    for name, (function, settings) in RUNS.items():
        draws, call = iter(noise), getattr(made, function)
        ends = (SIGMAS[-2].item(), SIGMAS[0].item()) if "sigma_min" in inspect.signature(call).parameters else (SIGMAS,)
        x, states = start * SIGMAS[0], []
        out = call(
            lambda x, sigma: believe(gmm, x, torch.ones(()), sigma[0]),
            x,
            *ends,
            disable=True,
            callback=lambda seen: states.append(seen["x"]),  # noqa: B023
            noise_sampler=lambda *_: next(draws),  # noqa: B023
            **settings,
        )
        tensors |= {f"{name}/out.states": torch.stack([x, out]), f"{name}/aux.states": torch.stack(states)}
        runs[name] = {"fn": function, "kw": settings}
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, OUT / "k_diffusion_rest.safetensors")
    about = {
        "summary": "k-diffusion samplers in float64 on an exact denoiser of a Gaussian mixture",
        "source": {"repo": "crowsonkb/k-diffusion", "commit": "4601bf085320592473f681a62808ed873d17fad5", "licence": "MIT", "file": "k_diffusion/sampling.py"},
        "made_by": "tests/parity/make_k_references.py",
        "seed": SEED + 1,
        "notes": ["dpm_fast and dpm_adaptive run from the first to the last sigma above 0 and stop there", "noise_sampler gives in.noise in order; it is asked in every accepted step, whatever eta"],
        "runs": runs,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }  # fmt: skip
    (OUT / "k_diffusion_rest.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
