"""The keys of whoever drives a sweep stay with the driver."""

import pytest
from ray.tune.execution.class_cache import _ActorClassCache

import tuneyard.tune.driver  # noqa: F401  (importing it is what this is about)
from tuneyard.tune.trial import Trial


def test_ray_is_not_told_the_drivers_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "very-secret")
    made = _ActorClassCache().get(Trial)
    assert "very-secret" not in str(vars(made))
    assert "PL_DISABLE_FORK" in str(vars(made)), "which Tune always sets, so that this is where it sets variables"
