"""Settings are checked when they are given, and the error names the field and the remedy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from poolkit import ConfigError
from poolkit.core import checks


@dataclass(frozen=True, kw_only=True)
class Config:
    max_size: int = 20
    min_size: int = 5
    derived: str = field(init=False, default="")


def repr8(value):
    return repr(value)[:8]


@pytest.mark.parametrize("value", [0, 0.0, 1, 0.25, 1e9])
def test_seconds_come_back_as_a_float(value):
    assert checks.seconds("wait", value) == value
    assert isinstance(checks.seconds("wait", value), float)


@pytest.mark.parametrize(
    "value", [-1, -0.001, math.nan, math.inf, -math.inf, 10**400, "5", None, True, [1]], ids=repr8
)
def test_what_is_no_number_of_seconds_is_refused_by_name(value):
    with pytest.raises(ConfigError, match=r"^acquire_timeout must be "):
        checks.seconds("acquire_timeout", value)


def test_zero_seconds_are_refused_where_they_make_no_sense():
    assert checks.seconds("wait", 0) == 0.0
    with pytest.raises(ConfigError, match="more than 0"):
        checks.seconds("wait", 0, zero=False)


def test_infinity_passes_only_where_forever_is_a_choice():
    assert checks.seconds("wait", math.inf, forever=True) == math.inf
    for value in (-math.inf, math.nan):
        with pytest.raises(ConfigError):
            checks.seconds("wait", value, forever=True)


@pytest.mark.parametrize("value", [2.0, "3", None, True, math.nan])
def test_what_is_no_whole_number_is_refused_by_name(value):
    with pytest.raises(ConfigError, match=r"^max_size must be a whole number"):
        checks.count("max_size", value)


@pytest.mark.parametrize("value", [10**5000, -(10**5000)], ids=["high", "low"])
def test_a_number_of_any_length_is_refused_by_name(value):
    with pytest.raises(ConfigError, match=r"^max_size must be "):
        checks.count("max_size", value)


def test_counts_below_the_least_are_refused():
    assert checks.count("max_size", 1, at_least=1) == 1
    with pytest.raises(ConfigError, match="max_size must be 1 or more, not 0"):
        checks.count("max_size", 0, at_least=1)


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_only_true_and_false_are_flags(value):
    assert checks.flag("verify", True) is True
    assert checks.flag("verify", False) is False
    with pytest.raises(ConfigError, match=r"^verify must be True or False"):
        checks.flag("verify", value)


def test_no_limit_is_a_choice_and_zero_is_none():
    assert checks.limit("deadline", None) is None
    assert checks.limit("deadline", 2) == 2.0
    with pytest.raises(ConfigError, match=r"^deadline must be more than 0 seconds"):
        checks.limit("deadline", 0)


@pytest.mark.parametrize("value", ["", "X Left", "X:", "Zeit-übrig", "X\r\nY", 5])
def test_what_is_no_name_of_a_header_is_refused_by_name(value):
    with pytest.raises(ConfigError, match=r"^header must be "):
        checks.header("header", value)


def test_names_of_headers_come_back_and_so_does_none():
    assert checks.header("header", "X-Left") == "X-Left"
    assert checks.header("header", None) is None


def test_text_of_another_kind_is_refused_without_showing_it():
    assert checks.text("conninfo", "host=x") == "host=x"
    with pytest.raises(ConfigError, match="conninfo must be a string") as caught:
        checks.text("conninfo", b"password=hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("check", [checks.seconds, checks.count, checks.flag])
def test_a_secret_given_to_the_wrong_field_is_not_shown(check):
    with pytest.raises(ConfigError) as caught:
        check("max_size", "postgresql://app:hunter2@db/app")
    assert "hunter2" not in str(caught.value)


def test_an_unknown_field_names_the_nearest_right_one():
    with pytest.raises(
        ConfigError, match=r"Config has no field 'maxsize'; did you mean 'max_size'\?"
    ):
        checks.build(Config, {"maxsize": 3})


def test_an_unknown_field_with_nothing_near_lists_what_there_is():
    with pytest.raises(ConfigError, match=r"the fields are max_size, min_size$"):
        checks.build(Config, {"zzz": 3})


def test_a_field_that_is_worked_out_can_not_be_set():
    with pytest.raises(ConfigError, match="no field 'derived'"):
        checks.build(Config, {"derived": "x"})


def test_known_fields_build_the_config():
    assert checks.build(Config, {"max_size": 3}) == Config(max_size=3)
