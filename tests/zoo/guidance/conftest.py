"""Beliefs to guide with: two exact mixtures, and tensors that explain x_t on a path."""

import pytest
import torch

import zoo.guidance
import zoo.objectives  # noqa: F401
from tests.oracle import gaussian, three
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.guidance import Branch, Given
from vidiff.diffusion.path import expand
from vidiff.registry import PATHS
from vidiff.types import Cond

SHAPE = (2, 3, 4, 5, 6)


class Scene:
    """Branches with a belief each about one x_t, and a record of what was asked."""

    def __init__(self, path="linear"):
        self.path, self.asked = PATHS[path].build(), []
        self.given = Given(Branch(Cond()), Branch(Cond()), self.path, self.only)
        self.x, self.beliefs, self.parts = self.draw(0), {}, {}

    def draw(self, seed):
        return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def only(self, parts):
        return self.parts.setdefault(tuple(parts), Branch(Cond()))

    def belief(self, branch, t):
        """Of each branch its own, drawn when it is first asked."""
        key = "disturbed" if branch.disturb else branch
        seed = self.beliefs.setdefault(key, 1 + len(self.beliefs))
        return self.explain(1.5 * self.draw(seed) + 0.3, t)

    def explain(self, x0, t):
        """The estimate of x_t with this x0."""
        alpha, sigma = (expand(c(t), x0) for c in (self.path.alpha, self.path.sigma))
        return Estimate(x0, (self.x - alpha * x0) / sigma)

    def evaluate(self, x, t, branches):
        self.asked.append(list(branches))
        return [self.belief(branch, t) for branch in branches]

    def run(self, guidance, t):
        return guidance(self.evaluate, self.given)(self.x, t)


@pytest.fixture
def scene():
    return Scene()


@pytest.fixture
def exact():
    """(path) -> evaluate and what is given: the class is a Gaussian, without the class it is a mixture."""

    def make(path):
        path = PATHS[path].build() if isinstance(path, str) else path
        given = Given(Branch(Cond()), Branch(Cond()), path)
        with_it, without = gaussian([0.5, -0.2, 1.0], [0.3, 0.1, 0.8]).estimate(path), three(3).estimate(path)

        def evaluate(x, t, branches):
            return [(with_it if branch is given.cond else without)(x, t) for branch in branches]

        return evaluate, given

    return make


def same(one, other):
    """In bits."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def close(one, other, atol=1e-10):
    return all(torch.allclose(a, b, atol=atol) for a, b in zip(one, other, strict=True))
