"""Where the kinds meet: a checked configuration to wired components.

    made = plan(load("projects/nano_sora.yaml"))       # on the meta device; every problem, before anything heavy
    diffuser = build_diffuser(made.config, made.dataset)

`planning` is that first pass, `meeting` what parts refuse of each other, `builder` the wiring.
"""

from vidiff.building.builder import (
    Read,
    build_dataset,
    build_diffuser,
    build_sampling,
    count_parameters,
    law_of,
    run_folder,
)
from vidiff.building.meeting import check_sampler, machine_bytes, rehearse
from vidiff.building.planning import Plan, build_task, grid_of, plan, reshaped

__all__ = [
    "Plan",
    "Read",
    "build_dataset",
    "build_diffuser",
    "build_sampling",
    "build_task",
    "check_sampler",
    "count_parameters",
    "grid_of",
    "law_of",
    "machine_bytes",
    "plan",
    "rehearse",
    "reshaped",
    "run_folder",
]
