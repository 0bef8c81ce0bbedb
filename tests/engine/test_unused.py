"""A key that somebody wrote and nothing would look at is refused, with what to do."""

import pytest

from vidiff.building import plan
from vidiff.config import ConfigError, load
from vidiff.engine.parallel import world
from vidiff.engine.preflight import preflight
from vidiff.registry import BACKBONES

UNET = ("backbone={name: unet3d, dim: 8, multipliers: [1, 2], num_heads: 2}", "tokenizer=pixels")


def planned(file, *overrides):
    return plan(load(file, overrides))


def test_a_u_net_has_positions_of_its_own(yaml_file):
    with pytest.raises(
        ConfigError, match=r"positions rotary: it changes nothing: backbone unet3d has positions of its"
    ):
        planned(yaml_file, *UNET, "positions=rotary")
    with pytest.raises(ConfigError, match=r"Use no 'positions' with it, or the default, sincos"):
        planned(yaml_file, "positions=rotary", *UNET)
    planned(yaml_file, *UNET, "positions=sincos")  # the default, as every complete configuration has it
    planned(yaml_file, *UNET, "positions=sincos", "attention=math")  # it has attention, which is asked for


def test_what_a_base_chose_for_another_backbone_is_left_behind(yaml_file, tmp_path):
    """As settings of a component that is replaced are; but not what stands in the same file, or is typed as well."""
    above = tmp_path / "above.yaml"
    above.write_text(f"base: {yaml_file.name}\nbackbone: {{name: unet3d, dim: 8, multipliers: [1, 2], num_heads: 2}}\n")
    assert planned(above, "tokenizer=pixels").config.components["positions"]["name"] == "sincos"
    below = tmp_path / "below.yaml"
    below.write_text(f"base: {above.name}\npositions: rotary\n")
    with pytest.raises(ConfigError, match="backbone unet3d has positions of its own"):
        planned(below, "tokenizer=pixels")
    joint = "backbone={name: dit_joint, dim: 24, depth: 1, num_heads: 3}"
    assert planned(above, joint).config.components["positions"]["name"] == "learned"


def test_convolutions_have_no_attention(yaml_file, tmp_path):
    components = tmp_path / "own.py"
    components.write_text(
        "from torch import nn\n"
        "from vidiff.registry import BACKBONES\n\n\n"
        "@BACKBONES.register('only_convolutions')\n"
        "class OnlyConvolutions(nn.Conv3d):\n"
        "    uses, zero_init, blocks = frozenset({'vector'}), False, ()\n\n"
        "    def __init__(self, dim: int = 24, *, grid, out_channels, cond):\n"
        "        super().__init__(grid.c, out_channels, 1)\n\n"
        "    def forward(self, x, time, cond):\n"
        "        return super().forward(x)\n\n"
        "    def check(self, grid):\n"
        "        pass\n"
    )
    yaml_file.write_text(f"imports: [{components.name}]\n" + yaml_file.read_text())
    own = ("backbone=only_convolutions", "positions=sincos")
    try:
        planned(yaml_file, *own)
        with pytest.raises(
            ConfigError, match="it changes nothing: backbone only_convolutions has attention of its own"
        ):
            planned(yaml_file, *own, "attention=math")
    finally:
        BACKBONES.remove("only_convolutions")


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["schedule.decay_fraction=0.3"],
            "schedule.decay_fraction is 0.3 and changes nothing: schedule.name is cosine",
        ),
        (["schedule={name: inverse_sqrt, min_lr: 0.1}"], "schedule.min_lr is 0.1 and changes nothing"),
        (["schedule.power=3.0"], "schedule.power is 3.0 and changes nothing"),
        (["ema.snapshot_every=7"], "ema.snapshot_every is 7 and changes nothing: no average looks at it. Remove it."),
        (["ema.warmup_share=0.1"], "ema.warmup_share is 0.1 and changes nothing"),
        (["ema.decays=[0.5,0.5]"], "ema keeps the same average twice: ema:0.5"),
    ],
)
def test_settings_of_what_was_not_chosen(yaml_file, overrides, text):
    with pytest.raises(ConfigError) as caught:
        preflight(planned(yaml_file, *overrides), world("cpu"))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["schedule={name: wsd, decay_fraction: 0.3, warmup_steps: 1}"],
        ["schedule={name: polynomial, power: 3.0, warmup_steps: 1}"],
        ["schedule={name: cosine_restarts, cycles: 3, warmup_steps: 1}"],
        ["schedule={name: inverse_sqrt, reference_steps: 4}"],
        ["ema={sigma_rel: [0.1], snapshot_every: 7}"],
        ["ema={warmup: power, warmup_power: 0.75}"],
    ],
)
def test_settings_of_what_was_chosen(yaml_file, overrides):
    preflight(planned(yaml_file, *overrides), world("cpu"))
