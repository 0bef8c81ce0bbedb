"""Bytes to [-1, 1] and back, the one normalisation; frames to another size."""

import torch

from vidiff.video import (
    fit,
    to_float,
    to_uint8,
)


def test_every_byte_survives_the_way_to_floats_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    there = to_float(every)
    assert there.dtype == torch.float32 and there[0] == -1 and there[255] == 1 and (there.diff() > 0).all()
    assert torch.equal(to_uint8(there), every)
    assert torch.equal(to_uint8(to_float(every, torch.float64)), every)
    assert (to_float(every, torch.bfloat16) - there).abs().max() <= 2**-8 / 2


def test_bytes_are_rounded_and_clamped_and_never_undefined():
    values = torch.tensor([-7.0, 1.004 / 127.5 - 1, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1, 1.5, float("inf"), float("nan")])
    assert to_uint8(values).tolist() == [0, 1, 1, 0, 255, 255, 0]
    assert to_uint8(torch.tensor([0.5], dtype=torch.bfloat16)).tolist() == [191]


def test_fit_takes_the_middle_in_the_right_shape():
    frame = torch.zeros(30, 80, 3, dtype=torch.uint8)
    frame[:, 25:55] = torch.tensor([200, 100, 50], dtype=torch.uint8)  # the middle square
    small = fit(frame, 6, 6)
    assert small.shape == (6, 6, 3) and small.dtype == torch.uint8
    assert (small.int() - torch.tensor([200, 100, 50])).abs().max() <= 1
    assert fit(frame, 5, 7).shape == (5, 7, 3) and fit(frame, 90, 40).shape == (90, 40, 3)
    assert torch.equal(fit(frame, 30, 80), frame)


def test_fit_averages_what_it_shrinks():
    stripes = torch.zeros(64, 64, 3, dtype=torch.uint8)
    stripes[:, ::4] = 252
    assert (fit(stripes, 8, 8).int()[2:-2, 2:-2] - 63).abs().max() <= 2
