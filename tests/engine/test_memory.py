"""What drawing needs of memory: counted without any, and refused with what would fit."""

import math

import pytest
import torch
from torch import nn

from vidiff.building import plan, reshaped
from vidiff.config import load
from vidiff.engine import memory
from vidiff.engine.memory import Peak, check_drawing, forward_bytes
from vidiff.errors import Refused

CPU = torch.device("cpu")


def test_the_peak_is_what_is_held_at_a_time():
    with Peak() as peak, torch.device("meta"):
        a = torch.empty(3, 5)  # 60 bytes
        b = a + 1  # 120
        del a  # 60
        c = torch.empty(7, 11, dtype=torch.uint8)  # 137
        d = b.view(5, 3)  # the same memory
        b.mul_(2)
    assert peak.most == 137 and peak.now == 137
    del b, c, d
    assert peak.now == 0


def test_a_stack_of_layers_holds_two_answers_whatever_its_depth():
    """The widest pair of neighbours of a chain: 4 (B dim_i + B dim_i+1)."""
    for depth in (1, 6):
        with torch.device("meta"):
            net = nn.Sequential(*[nn.Linear(9, 9) for _ in range(depth)], nn.Linear(9, 31), nn.Linear(31, 2))
            x = torch.empty(4, 9)
        with Peak() as peak, torch.no_grad():
            net(x)
        assert peak.most == 4 * 4 * (9 + 31)


@pytest.fixture
def made(yaml_file):
    return plan(load(yaml_file))


def test_the_count_grows_with_the_video_and_holds_nothing(made):
    small, long = forward_bytes(made), forward_bytes(reshaped(made, (1, 4 * 64, 16, 16)))
    tokens, dim = math.prod(made.grid[1:]), 24
    assert small > 4 * tokens * dim * 3, "queries, keys and values at least"
    assert 40 * small < long < 80 * small, "64 times the tokens, and no scores of 512 x 512"


def test_scores_count_where_they_are_written_out(yaml_file):
    made = plan(load(yaml_file, ["attention=math"]))
    long = reshaped(made, (1, 4 * 64, 16, 16))
    tokens = math.prod(long.grid[1:])
    assert forward_bytes(long) > 4 * 3 * tokens**2 > forward_bytes(reshaped(plan(load(yaml_file)), (1, 256, 16, 16)))


def test_what_fits_is_drawn_and_what_does_not_is_refused_with_what_would(made, monkeypatch):
    check_drawing(made, 8, 8, CPU)
    weights = 4 * sum(p.numel() for p in made.diffuser.parameters())
    monkeypatch.setattr(memory, "machine_bytes", lambda: weights + 5 * forward_bytes(made))
    words = r"drawing 8 videos of 1x4x16x16 at once .*cpu has .*: use --batch-size \d or less"
    with pytest.raises(Refused, match=words) as told:
        check_drawing(made, 8, 8, CPU)
    fits = int(str(told.value).split("--batch-size ")[1][0])
    assert 1 <= fits < 5
    check_drawing(made, 8, fits, CPU)
    with pytest.raises(Refused):
        check_drawing(made, 8, fits + 1, CPU)
    monkeypatch.setattr(memory, "machine_bytes", lambda: weights + 100)
    with pytest.raises(Refused, match="a smaller --shape, or a device with more memory"):
        check_drawing(made, 1, 1, CPU)


def test_results_alone_may_be_too_much(made, monkeypatch):
    monkeypatch.setattr(memory, "machine_bytes", lambda: 100_000)
    with pytest.raises(Refused, match=r"1,000 videos of 1x4x16x16 are .*use --num 24 or fewer"):
        check_drawing(made, 1000, 1, CPU)
    with pytest.raises(Refused, match="use a smaller --shape"):
        check_drawing(reshaped(made, (1, 4, 400, 400)), 1, 1, CPU)
