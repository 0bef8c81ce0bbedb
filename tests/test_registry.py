"""Names, settings, wiring and parts."""

import pytest

from vidiff.registry import KINDS, Registry, Setting, UnknownName, build, did_you_mean, nearest


@pytest.fixture
def shapes(monkeypatch):
    """A kind of its own with two components, one a part of the other."""
    registry = Registry("shape")
    monkeypatch.setitem(KINDS, "shape", registry)

    @registry.register("circle", tiny=dict(radius=2))
    class Circle:
        """Round."""

        def __init__(self, radius: float = 1.0, *, colour: str = "red"):
            self.radius, self.colour = radius, colour

    @registry.register("pair", parts={"first": "shape", "others": "shape"})
    class Pair:
        """Several."""

        def __init__(self, size: int, first="circle", others: list = (), *, colour: str):
            self.size, self.first, self.others, self.colour = size, first, others, colour

    return registry


def test_settings_stand_before_the_star_and_wiring_after(shapes):
    assert list(shapes["pair"].settings) == ["size", "first", "others"]
    assert shapes["pair"].wiring == {"colour": False}
    assert shapes["circle"].wiring == {"colour": True}
    assert shapes["pair"].settings["size"].default is Setting.required
    assert shapes["pair"].settings["first"].part == "shape"
    assert shapes["circle"].settings["radius"].annotation is float
    assert shapes["circle"].summary == "Round."


def test_parts_are_built_first_with_the_wiring_they_ask_for(shapes):
    pair = build(
        "shape", {"name": "pair", "size": 3, "first": {"name": "circle", "radius": 5.0}}, colour="blue", unused=1
    )
    assert (pair.size, pair.first.radius, pair.first.colour, pair.colour) == (3, 5.0, "blue", "blue")
    assert build("shape", {"name": "pair", "size": 1}, colour="x").first.radius == 1.0


def test_lists_of_parts(shapes):
    pair = build(
        "shape", {"name": "pair", "size": 3, "others": ["circle", {"name": "circle", "radius": 7}]}, colour="c"
    )
    assert [o.radius for o in pair.others] == [1.0, 7]


def test_an_unknown_name_lists_the_nearest_and_all(shapes):
    with pytest.raises(UnknownName) as caught:
        shapes["circel"]
    assert str(caught.value) == (
        "shape 'circel' is not registered. Did you mean 'circle'? Known: circle, pair. "
        "Your own? Name its file under 'imports:'."
    )


def test_a_taken_name_is_refused(shapes):
    with pytest.raises(ValueError, match=r"shape 'circle' is already registered by .*test_registry.py"):
        shapes.register("circle")(object)


def test_wildcards(shapes):
    assert shapes.names("c*") == ["circle"]
    assert "pair" in shapes and "square" not in shapes


def test_nearest():
    assert nearest("dept", ["depth", "dim"]) == "depth"
    assert did_you_mean("xyz", ["depth"]) == ""


def test_an_unknown_setting_is_an_error(shapes):
    with pytest.raises(TypeError, match="radios"):
        build("shape", {"name": "circle", "radios": 3})
