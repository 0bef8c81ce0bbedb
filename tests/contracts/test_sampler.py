"""What every registered sampler promises, on the paths that vidiff.checks.sampler leaves out because they take long.

On one path of each sort, and in all that does not depend on it, test_checks.py runs those checks on every sampler.
"""

import pytest

import zoo.objectives
import zoo.samplers  # noqa: F401
from vidiff.checks.sampler import (
    FEW,
    TWO,
    finds_the_point_on,
    float32_follows_on,
    needs_no_prediction_on,
    one_step_does,
    tends_to_the_law_on,
)
from vidiff.registry import PATHS, SAMPLERS

OTHERS = [p for p in PATHS.names() if p not in FEW]
MORE = [p for p in PATHS.names() if p not in TWO]

pytestmark = pytest.mark.slow


@pytest.fixture(params=SAMPLERS.names())
def component(request):
    return SAMPLERS[request.param]


@pytest.mark.parametrize("path", OTHERS)
def test_every_valid_prediction_gives_the_same_finite_samples_from_pure_noise(component, path):
    needs_no_prediction_on(component, path)


@pytest.mark.parametrize("path", OTHERS)
def test_float32_follows_float64(component, path):
    float32_follows_on(component, path)


@pytest.mark.parametrize("path", OTHERS)
def test_one_step_to_clean_finds_a_single_data_point(component, path):
    if not one_step_does(component.build(component.tiny), path):
        pytest.skip("a method that follows dx/dt on a curved path needs many steps: the next test")
    finds_the_point_on(component, path, 1, 1e-9)


@pytest.mark.parametrize("path", MORE)
def test_many_steps_to_clean_find_a_single_data_point(component, path):
    if one_step_does(component.build(component.tiny), path):
        pytest.skip("one step does: the test before")
    spacing = "uniform" if path.startswith("ve") else "logsnr"  # t is a log-SNR there
    finds_the_point_on(component, path, 400, 0.05, spacing)


@pytest.mark.parametrize("path", MORE)
def test_reaches_the_data_distribution(component, path):
    if not component.target.spreads:
        pytest.skip("not a sampler for denoisers")
    tends_to_the_law_on(component, path)
