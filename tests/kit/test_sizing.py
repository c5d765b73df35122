"""How many connections a server serves best, and how they are shared."""

from __future__ import annotations

import pytest

import poolkit
from poolkit import ConfigError, pool_size


@pytest.mark.parametrize(
    ("asked", "total", "each", "least", "over"),
    [
        ({"cores": 4}, 9, 9, 3, False),
        ({"cores": 4, "instances": 5}, 9, 2, 1, True),
        ({"cores": 8, "instances": 5}, 17, 3, 1, False),
        ({"cores": 4, "instances": 2}, 9, 5, 2, True),  # 4.5 is as near to 5 as to 4
        ({"cores": 1, "spindles": 0, "instances": 50}, 2, 1, 1, True),
        ({"cores": 32, "spindles": 8, "instances": 4}, 72, 18, 5, False),
    ],
)
def test_the_rule_of_thumb(asked, total, each, least, over):
    size = pool_size(**asked)

    assert (size.total, size.per_instance, size.min_size, size.overcommitted) == (
        total,
        each,
        least,
        over,
    )


def test_the_defaults_are_four_cores_a_disk_and_one_instance():
    assert poolkit.pool_size() == pool_size(cores=4, spindles=1, instances=1)


@pytest.mark.parametrize(
    ("asked", "named"),
    [({"cores": 0}, "cores"), ({"spindles": -1}, "spindles"), ({"instances": 0}, "instances")],
)
def test_what_makes_no_sense_is_refused_by_name(asked, named):
    with pytest.raises(ConfigError, match=named):
        pool_size(**asked)
