"""The experiment file as frozen pydantic models: every key, its type, its unit and its default.

`loading.py` reads the YAML into these models; `checks.py` looks at what one model alone cannot see.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Scalar = bool | int | float | str | None
TransformArgs = dict[str, Any]


class Section(BaseModel):
    """A part of the experiment file. Frozen; unknown keys are refused; no silent conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ValidationConfig(Section):
    """How the validation set is drawn from the training data: a share of it, or one of several folds."""

    split: Fraction | None = Field(None, description="Share of the samples held out, between 0 and 1.")
    folds: int | None = Field(None, ge=2, le=100, description="Number of folds; `fold` says which one is held out.")
    fold: int = Field(0, ge=0, description="The fold that is held out, counted from 0.")
    by: Literal["random", "stratified", "group"] = Field(
        "stratified",
        description="random; stratified (equal class shares); group (no group on both sides, still stratified).",
    )
    group_column: str | None = Field(None, description="CSV column, or npz array, that names each sample's group.")
    fold_column: str | None = Field(None, description="CSV column, or npz array, with each sample's fold, from 0.")
    seed: int = Field(0, ge=0, description="Seed of the draw; the training seed does not change the split.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.split is not None and (self.folds is not None or self.fold_column is not None):
            raise ValueError("give either `split` or `folds` (or `fold_column`), not both")
        if self.folds is not None and self.fold_column is not None:
            raise ValueError("give either `folds` or `fold_column`: the column already says which folds there are")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"`fold` is {self.fold}, but {self.folds} folds are counted 0 to {self.folds - 1}")
        if self.by == "group" and self.group_column is None and self.fold_column is None:
            raise ValueError("`by: group` needs `group_column`: the column that names each sample's group")
        if self.group_column is not None and self.by != "group":
            raise ValueError(f"`group_column` is only used with `by: group`, but `by` is {self.by!r}")
        return self

    @property
    def share(self) -> float:
        """The share held out by a plain split: `split`, or 0.1 where neither a split nor folds were asked for."""
        return self.split if self.split is not None else 0.1


class CsvColumns(Section):
    """Which columns of a CSV manifest mean what."""

    path: str = Field("path", description="Column with the image's path, absolute or relative to the CSV file.")
    label: str = Field("label", description="Column with the class: a name or a whole number.")
    split: str | None = Field(None, description="Column whose value `test` sets a row aside as test data.")


class Normalization(Section):
    """Per-channel mean and standard deviation, of pixel values scaled to 0..1."""

    mean: list[float] = Field(min_length=1)
    std: list[Annotated[float, Field(gt=0.0)]] = Field(min_length=1)

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std has {len(self.std)}")
        return self


class DataConfig(Section):
    """Where the images come from and what is done to them."""

    source: str = Field(description="digits, fashion-mnist, folder:PATH, csv:PATH, npz:PATH, or task.py:my_dataset.")
    image_size: int = Field(28, ge=4, le=4096, description="Height and width, in pixels, that images are resized to.")
    channels: Literal["auto"] | int = Field("auto", description="1 (grey), 3 (RGB), or auto: what the source has.")
    classes: list[str] | None = Field(
        None, min_length=2, description="Class names in order; found in the data if unset."
    )
    columns: CsvColumns = CsvColumns()
    validation: ValidationConfig = ValidationConfig()
    augment: list[str | dict[str, TransformArgs]] = Field(
        default_factory=list, description="albumentations transforms, by their own names and arguments, in order."
    )
    normalize: Literal["auto"] | Normalization = Field("auto", description="auto: measured on the training images.")
    on_error: Literal["fail", "skip"] = Field("fail", description="A damaged image: stop, or skip and count it.")
    cache_dir: str | None = Field(None, description="Folder of decoded images; ~/.cache/tuneyard if unset.")
    download: bool = Field(True, description="May a built-in data set be downloaded when it is not on the disk?")


class ModelConfig(Section):
    """Which network."""

    name: str = Field("reference/small-cnn", description="reference/small-cnn, timm/NAME, or task.py:build_model.")
    pretrained: bool = Field(False, description="Start from the pretrained weights that the model's source offers.")
    args: dict[str, Any] = Field(default_factory=dict, description="Arguments for the model's builder, such as width.")


class OptimizerConfig(Section):
    """AdamW or SGD. Norms and biases get no weight decay."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0.0, description="Peak learning rate.")
    weight_decay: float = Field(0.05, ge=0.0)
    betas: Annotated[list[Annotated[float, Field(ge=0.0, lt=1.0)]], Field(min_length=2, max_length=2)] = Field(
        default=[0.9, 0.999], description="AdamW's decay rates of the first and second moment."
    )
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="SGD's momentum.")
    nesterov: bool = Field(True, description="SGD with Nesterov's momentum.")


class ScheduleConfig(Section):
    """How the learning rate moves, step by step."""

    name: Literal["cosine", "onecycle", "constant"] = "cosine"
    warmup_epochs: float = Field(
        0.0, ge=0.0, description="Linear warm-up from zero; for onecycle the rise to the peak."
    )
    final_ratio: float = Field(0.0, ge=0.0, le=1.0, description="Last learning rate, as a share of the peak.")


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(128, ge=1, description="The global batch: over all workers and accumulation steps.")
    accumulate: int = Field(1, ge=1, description="Micro-batches that each worker sums before a step.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="fp16 scales the loss.")
    strategy: Literal["ddp"] = Field("ddp", description="How several workers share the work.")
    clip_norm: float | None = Field(None, gt=0.0, description="Clip the gradient's global norm to this.")
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    channels_last: bool = Field(True, description="NHWC memory layout, faster for convolutions.")
    seed: int = Field(0, ge=0, le=2**31 - 1)


class CheckpointConfig(Section):
    """Where checkpoints and the run record lie, and how many are kept."""

    store: str = Field("runs", description="A folder, file:///PATH, or s3://bucket/prefix.")
    endpoint_url: str | None = Field(None, description="S3 endpoint other than AWS's, such as http://127.0.0.1:8333.")
    region: str | None = Field(None, description="S3 region, where the AWS profile or environment does not say it.")
    every_epochs: int = Field(1, ge=1)
    keep_last: int = Field(2, ge=1)
    keep_best: int = Field(1, ge=1)


class CometConfig(Section):
    """Comet: one experiment per run."""

    project: str | None = Field(None, description="Comet project; the experiment's name if unset.")
    workspace: str | None = None
    mode: Literal["auto", "online", "offline", "off"] = Field(
        "auto", description="auto: online with a key, else offline."
    )
    images: int = Field(32, ge=0, le=256, description="Images on the page of inputs and on the page of mistakes.")


class TrackingConfig(Section):
    """Who is told the metrics."""

    comet: CometConfig = CometConfig()
    also: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(default_factory=list)
    directory: str = Field("runs/tracking", description="Local folder for offline archives and TensorBoard files.")


class ResourcesConfig(Section):
    """What one trial gets."""

    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="Worker processes; auto: one for each GPU here in `train`, one in `tune`."
    )
    gpus_per_worker: Literal["auto"] | Annotated[int, Field(ge=0, le=1)] = Field(
        "auto", description="auto: 1 where there is a GPU, else 0."
    )
    cpus_per_worker: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="auto: all of this machine's cores shared out among the workers in `train`, 1 in `tune`."
    )


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

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(type(self).model_fields)}; given: {', '.join(given) or 'none'}"
            )
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

    @property
    def kind(self) -> str:
        """The name of the one kind that is set."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def values(self) -> list[Any]:
        """The bounds (and step), or the choices."""
        return list(getattr(self, self.kind))


class TuneConfig(Section):
    """The sweep."""

    metric: str = Field("val/accuracy", description="What trials are compared by.")
    mode: Literal["min", "max"] = "max"
    trials: int = Field(16, ge=1, description="Trials to run; with `grid`, at most this many grid points.")
    search: Literal["random", "grid", "tpe"] = "tpe"
    scheduler: Literal["asha", "none"] = "asha"
    grace_epochs: int = Field(1, ge=1, description="asha: epochs that every trial gets.")
    reduction_factor: int = Field(3, ge=2, description="asha: one in this many goes on from each rung.")
    concurrent: int | None = Field(None, ge=1, description="Trials at a time; as many as the resources allow if unset.")
    seed: int = Field(0, ge=0)
    space: dict[str, Domain] = Field(min_length=1, description="Path of a key in this file -> the values to try.")


class Experiment(Section):
    """The whole experiment file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Letters, digits, '.', '_' and '-'.")
    task: str = Field("classification", description="classification, or task.py:MyTask.")
    data: DataConfig
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tune: TuneConfig | None = None
