"""What all sections of the experiment file have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Scalar = bool | int | float | str | None


class Section(BaseModel):
    """A part of the experiment file. Frozen; unknown keys are refused; no silent conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
