"""The section `tune`: what is searched, how, and when it is enough."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tuneyard.trainers.config.section import Scalar, Section


class Domain(Section):
    """The values that one hyperparameter may take: exactly one of the kinds."""

    uniform: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    loguniform: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    quniform: Annotated[list[float], Field(min_length=3, max_length=3)] | None = Field(
        None, description="low, high, step"
    )
    qloguniform: Annotated[list[float], Field(min_length=3, max_length=3)] | None = Field(
        None, description="low, high, step"
    )
    randint: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        None, description="low, high (included)"
    )
    qrandint: Annotated[list[int], Field(min_length=3, max_length=3)] | None = Field(
        None, description="low, high, step"
    )
    choice: Annotated[list[Scalar | list[Any] | dict[str, Any]], Field(min_length=1)] | None = None
    when: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict,
        description="Only searched where these keys of the space have this value, or one of these.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in self.kinds() if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(self.kinds())}; given: {', '.join(given) or 'none'}")
        kind, values = given[0], getattr(self, given[0])
        if kind == "choice":
            return self
        if values[0] >= values[1]:
            raise ValueError(f"{kind}: the low end {values[0]} must be below the high end {values[1]}")
        if "log" in kind and values[0] <= 0:
            raise ValueError(f"{kind}: the low end must be above 0, and is {values[0]}")
        if len(values) == 3 and not 0 < values[2] <= values[1] - values[0]:
            raise ValueError(f"{kind}: the step {values[2]} must be above 0 and at most the width of the range")
        return self

    @classmethod
    def kinds(cls) -> list[str]:
        """The ways to write a domain."""
        return [name for name in cls.model_fields if name != "when"]

    @property
    def kind(self) -> str:
        """The name of the one kind that is set."""
        return next(name for name in self.kinds() if getattr(self, name) is not None)

    @property
    def values(self) -> list[Any]:
        """The bounds (and step), or the choices."""
        return list(getattr(self, self.kind))


class BudgetConfig(Section):
    """Where a sweep ends, whatever is left to try."""

    hours: float | None = Field(None, gt=0.0, description="Wall-clock hours, over all its resumes.")
    gpu_hours: float | None = Field(None, gt=0.0, description="GPUs times the hours that trials held them.")
    money: float | None = Field(None, gt=0.0, description="By resources.prices, in their currency.")


class ConfirmConfig(Section):
    """The best trials once more, over seeds, before a winner is named."""

    top: int = Field(3, ge=2, le=50)
    seeds: int = Field(5, ge=2, le=100)


class TuneConfig(Section):
    """The sweep."""

    metric: str = Field("val/accuracy", description="What trials are compared by.")
    mode: Literal["min", "max"] = "max"
    trials: int = Field(16, ge=1, description="Trials to run; with `grid`, at most this many grid points.")
    objectives: dict[str, Literal["min", "max"]] = Field(
        default_factory=dict,
        description="Further objectives, such as images_per_s: max; the report has the Pareto front.",
    )
    search: str = Field("tpe", description="random, grid, tpe, gp, cmaes, or task.py:MySearch.")
    scheduler: Literal["asha", "hyperband", "median", "pbt", "pb2", "none"] = "asha"
    grace_epochs: int = Field(1, ge=1, description="asha, hyperband, median: epochs that every trial gets.")
    reduction_factor: int = Field(3, ge=2, description="asha, hyperband: one in this many goes on from each rung.")
    perturb_epochs: int = Field(1, ge=1, description="pbt, pb2: epochs between a member's comparisons with the others.")
    quantile: float = Field(0.25, gt=0.0, le=0.5, description="pbt, pb2: the share at the bottom that copies the top.")
    points: list[dict[str, Any]] = Field(
        default_factory=list, description="Values to try first; missing keys are drawn."
    )
    fold_p_value: float = Field(
        0.2, gt=0.0, lt=1.0, description="Drop a trial whose folds fall behind the best one's at this level (Wilcoxon)."
    )
    max_failures: int = Field(
        3, ge=0, description="Times that a run may fail and be taken up again; preemptions are free."
    )
    budget: BudgetConfig = BudgetConfig()
    confirm: ConfirmConfig | None = None
    concurrent: int | None = Field(None, ge=1, description="Trials at a time; as many as the resources allow if unset.")
    seed: int = Field(0, ge=0)
    space: dict[str, Domain] = Field(min_length=1, description="Path of a key in this file -> the values to try.")
