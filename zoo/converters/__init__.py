"""Official checkpoints to vidiff's components and back: functions of state dicts, registered by family.

A converter is a class of the contract `vidiff.types.Converter`: `keys` (which tell the family), settings for
what weights do not tell, `describe(state)`, `from_official(state)`, `to_official(parts, description)`;
`parts` is {"backbone": state dict, "conditioner": state dict}. No YAML file names a converter, but
converters know components by name, so they live here.
"""

from zoo.converters import cogvideox, diffusers_latte, dit, latte, ltx, nano_sora, sit, unet3d, wan  # noqa: F401
