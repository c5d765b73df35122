"""How many examples a generated test tries: few and always the same, or, for ``make fuzz``, many and new ones."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings

FUZZ_FACTOR = 20
"""Examples of ``make fuzz`` for each one of a usual run."""

settings.register_profile(
    "usual",
    derandomize=True,
    database=None,
    deadline=None,  # a busy machine is no slow example
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("fuzz", settings.get_profile("usual"), derandomize=False, print_blob=True)


def load(profile: str) -> None:
    """Use *profile* from now on. To be called before the tests are imported."""
    settings.load_profile(profile)


def examples(number: int, **others: Any) -> settings:
    """Return the settings for a test that tries *number* examples in a usual run."""
    factor = FUZZ_FACTOR if settings.get_current_profile_name() == "fuzz" else 1
    return settings(max_examples=number * factor, **others)
