"""Values: equality, pytrees, checks, JSON, and replacement in nested values."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import values
from unlearn_jax.types import InputError
from unlearn_jax.values import Real, static, value


@value
class Momentum:
    decay: Real = 0.9
    shape: float = static(default=0.5)


@value
class Step:
    rate: Real = 0.1
    count: int = 3
    kind: Literal["plain", "fancy"] = "plain"
    momentum: Momentum = Momentum()

    def __post_init__(self):
        if not isinstance(self.rate, jax.core.Tracer) and self.rate < 0:
            raise InputError("rate must not be negative")


@value
class Tilt(Step):
    beta: Real | None = None
    retain: bool = True
    extra: tuple[Momentum, ...] = ()


@value
class Holder:
    title: str | None = None
    part: Momentum = Momentum()
    parts: Mapping[str, Momentum] = dataclasses.field(default_factory=dict)
    pair: tuple[int, float] = (1, 2.0)
    shapes: tuple[tuple[int, ...], ...] = ()
    flag: bool | None = None
    anything: tuple[object, ...] = ()
    sizes: tuple[int, ...] | int = 3


@value
class Span:
    low: float = 0.0
    high: float = 1.0
    inner: object = None

    def __post_init__(self):
        if self.low >= self.high:
            raise InputError("low must be below high")


def test_equal_settings_are_equal_and_hash_alike():
    assert Tilt(rate=1) == Tilt(rate=1.0)
    assert hash(Tilt(rate=1)) == hash(Tilt(rate=np.float32(1)))
    assert Tilt() == dataclasses.replace(Tilt())
    assert Tilt() != Tilt(beta=1.0)
    assert Tilt(count=np.int64(3)) == Tilt()


def test_float_fields_are_leaves_and_the_others_are_static():
    assert jax.tree.leaves(Tilt()) == [0.1, 0.9]
    assert jax.tree.leaves(Tilt(beta=2.0, extra=(Momentum(),))) == [0.1, 0.9, 2.0, 0.9]
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(Tilt())
    ]
    assert paths == [".rate", ".momentum.decay"]


def test_one_program_serves_all_floats():
    scaled = jax.jit(lambda tilt: tilt.rate * tilt.momentum.decay)
    assert scaled(Tilt(rate=2.0)) == pytest.approx(1.8)
    assert scaled(Tilt(rate=3.0, momentum=Momentum(decay=0.5))) == pytest.approx(1.5)
    assert scaled._cache_size() == 1
    scaled(Tilt(count=4))
    assert scaled._cache_size() == 2


def test_vmap_maps_over_a_field():
    rates = jnp.array([1.0, 2.0])
    run = jax.vmap(lambda rate: values.replace(Tilt(), rate=rate).rate * 3)
    np.testing.assert_array_equal(run(rates), [3.0, 6.0])


def test_replace_reaches_nested_values_and_dotted_names_choose():
    tilt = Tilt(extra=(Momentum(),))
    assert values.replace(tilt, rate=0.5).rate == 0.5
    with pytest.raises(InputError, match="'decay' could mean"):
        values.replace(tilt, decay=0.1)
    assert values.replace(tilt, **{"extra.0.decay": 0.1}).extra[0].decay == 0.1
    assert values.replace(Tilt(), decay=0.1).momentum.decay == 0.1
    with pytest.raises(InputError, match="Tilt has no field 'rat'; it has beta"):
        values.replace(tilt, rat=1)
    with pytest.raises(InputError, match=r"no field .extra\.7\.decay"):
        values.replace(tilt, **{"extra.7.decay": 1.0})


def test_changes_are_checked_together():
    for changes in ({"low": 2, "high": 5}, {"high": 5, "low": 2}):
        assert values.replace(Span(), **changes) == Span(low=2.0, high=5.0)
        within = {f"inner.{name}": new for name, new in changes.items()}
        assert values.replace(Span(inner=Span()), **within).inner == Span(low=2, high=5)
    with pytest.raises(InputError, match="low must be below high"):
        values.replace(Span(), low=2)
    with pytest.raises(InputError, match="low must be a number, got 'a'"):
        values.replace(Span(inner=Span()), **{"inner.low": "a"})
    both = values.replace(Span(inner=Momentum()), inner=Span(), **{"inner.low": -1})
    assert both.inner == Span(low=-1)
    assert (
        values.replace(Span(inner=Span()), **{"inner.low": 7, "inner": None}) == Span()
    )


def test_fields_of_lists_what_replace_reaches():
    assert values.fields_of(Tilt())["decay"] == 0.9
    assert "decay" not in values.fields_of(Tilt(extra=(Momentum(),)))
    assert values.is_traceable(Tilt(), "decay")
    assert not values.is_traceable(Tilt(), "shape")
    assert not values.is_traceable(Tilt(), "count")


def test_json_and_back():
    tilt = Tilt(beta=0.25, extra=(Momentum(decay=0.3),), kind="fancy")
    stored = values.to_json(tilt)
    assert stored["extra"][0]["decay"] == 0.3
    assert values.from_json(stored) == tilt
    with pytest.raises(InputError, match="no type 'nowhere:Tilt'"):
        values.from_json({"type": "nowhere:Tilt"})
    with pytest.raises(InputError, match="cannot be stored as JSON"):
        values.to_json(lambda x: x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "odd"}, "unknown kind 'odd': choose plain or fancy"),
        ({"count": 2.5}, "count must be an integer, got 2.5"),
        ({"count": True}, "count must be an integer, got True"),
        ({"retain": 1}, "retain must be True or False, got 1"),
        ({"rate": "fast"}, "rate must be a number, got 'fast'"),
        ({"rate": -1.0}, "rate must not be negative"),
        ({"rate": None}, "rate must be a number, got None"),
        ({"rate": [0.1]}, "rate must be a number"),
        ({"rate": {"a": 1}}, "rate must be a number, got {'a': 1}"),
        ({"rate": np.True_}, "rate must be a number, got "),
        ({"rate": 1j}, "rate must be a number, got 1j"),
        ({"rate": jnp.ones(2, bool)}, "rate must be a number, got "),
        ({"rate": jax.random.key(0)}, "rate must be a number, got "),
        ({"extra": Momentum()}, "extra must be a tuple"),
        ({"extra": (3,)}, r"extra\[0\] must be of type Momentum, got 3"),
    ],
)
def test_bad_fields_are_one_line(fields, message):
    with pytest.raises(InputError, match=message):
        Tilt(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"title": 3}, "title must be a string, got 3"),
        ({"part": None}, "part must be of type Momentum, got None"),
        (
            {"part": np.eye(30)},
            r"part must be of type Momentum, got array[^\n]*\.\.\.$",
        ),
        ({"parts": [Momentum()]}, r"parts must be a mapping, got \[Momentum"),
        ({"parts": {"a": 1}}, "parts.a must be of type Momentum, got 1"),
        ({"pair": (1, 2.0, 3)}, r"pair must have 2 items, got \(1, 2.0, 3\)"),
        ({"pair": (1.5, 2)}, r"pair\[0\] must be an integer, got 1.5"),
        ({"shapes": [[8], ["8"]]}, r"shapes\[1\]\[0\] must be an integer, got '8'"),
        ({"flag": 1}, "flag must be True or False, got 1"),
    ],
)
def test_bad_parts_are_one_line(fields, message):
    with pytest.raises(InputError, match=message):
        Holder(**fields)


def test_a_union_with_a_tuple_takes_its_other_members():
    assert Holder(sizes=4).sizes == 4
    assert Holder(sizes=[4]).sizes == (4,)


def test_lists_paths_and_numbers_are_converted_inside_tuples_too():
    given = Holder(title=pathlib.Path("a/b"), pair=[np.int64(1), 2], shapes=[[8], [4]])
    assert given == Holder(title="a/b", pair=(1, 2.0), shapes=((8,), (4,)))
    assert values.from_json(values.to_json(given)) == given


def test_a_field_that_json_takes_for_the_class_is_refused():
    with pytest.raises(InputError, match="Kind has a field 'type'"):

        @value
        class Kind:
            type: str = "a"

    with pytest.raises(InputError, match="Typed has a field 'type'"):
        values.to_json(Typed())


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"type": "os:system", "command": "exit 3"}, "not a dataclass"),
        ({"type": "methods.unlearn"}, "not a dataclass"),
        ({"type": 3}, "no type '3'"),
        ({"type": "methods.AMUN", "option": 1}, "AMUN has no field 'option'"),
    ],
)
def test_json_names_dataclasses_and_nothing_else(stored, message):
    with pytest.raises(InputError, match=message):
        values.from_json(stored)


@pytest.mark.parametrize("path", ["extra.-1.decay", "momentum.__class__", "extra.x"])
def test_paths_are_fields_and_positions(path):
    with pytest.raises(InputError, match="has no field"):
        values.replace(Tilt(extra=(Momentum(),)), **{path: 0.1})


def test_a_tuple_that_holds_a_plain_dataclass_is_static():
    mixed = Holder(anything=(Momentum(), Plain()))
    assert jax.tree.leaves(mixed) == [0.9]
    assert jax.jit(lambda held: held.part.decay)(mixed) == pytest.approx(0.9)


def test_scalars_of_arrays_are_stored_as_numbers():
    assert values.to_json(Tilt(rate=jnp.float32(0.5)))["rate"] == 0.5


def test_a_plain_frozen_dataclass_can_be_replaced_and_stored_too():
    plain = Plain(rate=0.5)
    assert values.replace(plain, rate=1.0) == Plain(rate=1.0)
    assert values.from_json(values.to_json(plain)) == plain
    assert values.is_traceable(plain, "rate")


@dataclasses.dataclass(frozen=True)
class Plain:
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Typed:
    type: str = "a"
