"""What a check found: one line of the doctor's report, as it is shown and as it travels between machines."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Result(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    NOT_APPLICABLE = "not applicable"


class Finding(BaseModel):
    """One line of the report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="What was looked at, in a few words.")
    result: Result
    found: str = Field(description="What was found, with units; of what is not applicable, why.")
    advice: str = Field("", description="What to do; empty where nothing is to be done.")
    data: dict[str, Any] = Field(default_factory=dict, description="The same for programs; units in the names.")
    took_s: float = 0.0


class Report(BaseModel):
    """All findings of one machine, or of what lies between the machines."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    findings: list[Finding]

    def data_of(self, name: str) -> dict[str, Any]:
        """The data of the finding of this name; empty where there is none."""
        return next((finding.data for finding in self.findings if finding.name == name), {})


def ok(name: str, found: str, data: Mapping[str, Any] | None = None) -> Finding:
    """Nothing is to be done."""
    return Finding(name=name, result=Result.OK, found=found, data=dict(data or {}))


def warning(name: str, found: str, advice: str, data: Mapping[str, Any] | None = None) -> Finding:
    """It works, but less well or less safely than it could."""
    return Finding(name=name, result=Result.WARNING, found=found, advice=advice, data=dict(data or {}))


def failure(name: str, found: str, advice: str, data: Mapping[str, Any] | None = None) -> Finding:
    """Something will not work."""
    return Finding(name=name, result=Result.FAILURE, found=found, advice=advice, data=dict(data or {}))


def not_applicable(name: str, why: str, data: Mapping[str, Any] | None = None) -> Finding:
    """There was nothing to look at."""
    return Finding(name=name, result=Result.NOT_APPLICABLE, found=why, data=dict(data or {}))
