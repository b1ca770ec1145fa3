"""The experiment file as frozen pydantic models: every key, its type, its unit and its default.

`loading.py` reads the YAML into these models; `checks.py` looks at what one model alone cannot see.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tuneyard.trainers.stores.s3_options import S3Options

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Scalar = bool | int | float | str | None
TransformArgs = dict[str, Any]


class Section(BaseModel):
    """A part of the experiment file. Frozen; unknown keys are refused; no silent conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ValidationConfig(Section):
    """How the validation set is drawn from the training data: a share of it, or each of several folds in turn."""

    split: Fraction | None = Field(None, description="Share of the samples held out, between 0 and 1.")
    folds: int | None = Field(None, ge=2, le=100, description="Number of folds; each is held out in turn.")
    fold: int | None = Field(None, ge=0, description="Hold out this fold alone, counted from 0.")
    by: Literal["random", "stratified", "group"] = Field(
        "stratified",
        description="random; stratified (equal class shares); group (no group on both sides, still stratified).",
    )
    group_column: str | None = Field(None, description="CSV column, or npz array, that names each sample's group.")
    fold_column: str | None = Field(None, description="CSV column, or npz array, with each sample's fold, from 0.")
    seed: int = Field(0, ge=0, description="Seed of the draw; the training seed does not change the split.")
    predictions: bool = Field(
        False, description="Keep each validation sample's predicted probabilities; with all folds they always are."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.split is not None and (self.folds is not None or self.fold_column is not None):
            raise ValueError("give either `split` or `folds` (or `fold_column`), not both")
        if self.folds is not None and self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"`fold` is {self.fold}, but {self.folds} folds are counted 0 to {self.folds - 1}")
        if self.by == "group" and self.group_column is None and self.fold_column is None:
            raise ValueError("`by: group` needs `group_column`: the column that names each sample's group")
        if self.group_column is not None and self.by != "group":
            raise ValueError(f"`group_column` is only used with `by: group`, but `by` is {self.by!r}")
        return self

    @property
    def held_out_fold(self) -> int:
        """The fold that one run holds out."""
        return self.fold or 0

    @property
    def every_fold(self) -> bool:
        """Is each fold to be held out in turn, by a run of its own?"""
        return self.folds is not None and self.fold is None

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


class S3Config(Section):
    """How the bucket of `data.source` is reached. A key that is left out is `checkpoint`'s; null: as AWS's tools."""

    endpoint_url: str | None = Field(None, description="S3 endpoint other than AWS's, such as http://127.0.0.1:8333.")
    region: str | None = Field(None, description="S3 region, where the AWS profile or environment does not say it.")
    profile: str | None = Field(None, description="AWS profile whose credentials are used; else what AWS's tools use.")
    ca_bundle: str | None = Field(None, description="PEM file with the authority of the server's certificate.")
    deadline_s: float = Field(
        300.0, gt=0.0, description="A request to S3 that fails is tried again for this long, in all."
    )
    anonymous: bool = Field(False, description="Read without credentials, which a public bucket allows.")


class DataConfig(Section):
    """Where the images come from and what is done to them."""

    source: str = Field(
        description="digits, fashion-mnist, folder:PATH, csv:PATH, npz:PATH, s3://BUCKET/PATH, or task.py:my_dataset."
    )
    s3: S3Config | None = Field(None, description="How the bucket is reached, where the source lies in S3.")
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
    cache_dir: str | None = Field(
        None, description="Folder of decoded images and of what is brought from S3; ~/.cache/tuneyard if unset."
    )
    cache_gb: float | None = Field(
        None, gt=0.0, description="Disk that decoded images may take; the longest unused go first. No limit if unset."
    )
    download: bool = Field(
        True, description="May data be downloaded? If not, a source in S3 is used as it was brought before."
    )

    @property
    def s3_options(self) -> S3Options:
        """How the bucket is reached, where the source lies in S3."""
        given = self.s3 or S3Config()
        return S3Options(
            endpoint_url=given.endpoint_url,
            region=given.region,
            profile=given.profile,
            ca_bundle=None if given.ca_bundle is None else str(Path(given.ca_bundle).expanduser()),
            deadline_s=given.deadline_s,
            anonymous=given.anonymous,
            section="data.s3",
        )


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


class DeepSpeedConfig(Section):
    """What the strategies zero1 to zero3 take beside their stage."""

    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="What lies in the CPU's memory: the optimizer's state, or (zero3) the parameters too."
    )
    config: str | None = Field(
        None, description="A DeepSpeed JSON file of your own, from this file's folder; its stage is the strategy's."
    )


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(128, ge=1, description="The global batch: over all workers and accumulation steps.")
    accumulate: int = Field(1, ge=1, description="Micro-batches that each worker sums before a step.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="fp16 scales the loss.")
    strategy: Literal["ddp", "zero1", "zero2", "zero3"] = Field(
        "ddp", description="How workers share the work; zero1 to zero3 (DeepSpeed) also share the memory."
    )
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    clip_norm: float | None = Field(None, gt=0.0, description="Clip the gradient's global norm to this.")
    ema_epochs: float | None = Field(
        None, gt=0.0,
        description="Validate, choose and predict with weights averaged exponentially over about so many epochs.",
    )  # fmt: skip
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    channels_last: bool = Field(True, description="NHWC memory layout, faster for convolutions.")
    on_out_of_memory: Literal["fail", "accumulate"] = Field(
        "fail",
        description="accumulate: a sweep retries the trial with half the micro-batch and twice train.accumulate.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1)


class CheckpointConfig(Section):
    """Where checkpoints and the run record lie, and how many are kept."""

    store: str = Field("runs", description="A folder, file:///PATH, or s3://bucket/prefix.")
    endpoint_url: str | None = Field(None, description="S3 endpoint other than AWS's, such as http://127.0.0.1:8333.")
    region: str | None = Field(None, description="S3 region, where the AWS profile or environment does not say it.")
    profile: str | None = Field(None, description="AWS profile whose credentials are used; else what AWS's tools use.")
    kms_key: str | None = Field(None, description="KMS key (id or ARN) that S3 encrypts with.")
    ca_bundle: str | None = Field(None, description="PEM file with the authority of the server's certificate.")
    deadline_s: float = Field(
        300.0, gt=0.0, description="A request to S3 that fails is tried again for this long, in all."
    )
    every_epochs: int = Field(1, ge=1)
    keep_last: int = Field(2, ge=1)
    keep_best: int = Field(1, ge=1)
    keep_hours: float | None = Field(
        None, ge=0.0, description="Keep those too that were saved within so many hours of the newest one."
    )
    staging_gb: float | None = Field(
        None,
        gt=0.0,
        description="Main memory (in 1e9 bytes) for copies of the state that are being uploaded: one; up to three"
        " where saves come faster than the store takes them.",
    )

    @property
    def staging_bytes(self) -> int | None:
        """`staging_gb` in bytes."""
        return None if self.staging_gb is None else int(self.staging_gb * 1e9)

    @property
    def s3_options(self) -> S3Options:
        """How the store is reached, where it is in S3."""
        return S3Options(
            endpoint_url=self.endpoint_url,
            region=self.region,
            profile=self.profile,
            kms_key=self.kms_key,
            ca_bundle=None if self.ca_bundle is None else str(Path(self.ca_bundle).expanduser()),
            deadline_s=self.deadline_s,
        )


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


class Prices(Section):
    """What the hardware costs while it is held."""

    gpu_hour: float = Field(0.0, ge=0.0, description="One GPU for an hour.")
    cpu_hour: float = Field(0.0, ge=0.0, description="One core for an hour, where no GPU is priced.")
    currency: str = "USD"


class ResourcesConfig(Section):
    """What one trial gets."""

    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="Worker processes; auto: one for each GPU here in `train`, one in `tune`."
    )
    gpus_per_worker: Literal["auto"] | Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        "auto", description="auto: 1 where there is a GPU, else 0. 0.25 puts four workers of a sweep on one GPU."
    )
    cpus_per_worker: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="auto: all of this machine's cores shared out among the workers in `train`, 1 in `tune`."
    )
    memory_per_worker_gb: float | None = Field(
        None, gt=0.0, description="A worker that holds more main memory than this (in 1e9 bytes) ends its run."
    )
    spare_workers: Literal["auto"] | Annotated[int, Field(ge=0, le=16)] = Field(
        "auto",
        description="Processes that `train` keeps ready for a worker that is lost; auto: one beside several workers.",
    )
    max_restarts: int = Field(
        3, ge=0, description="How often `train` goes on by itself after one of several workers was lost or hung."
    )
    hang_timeout_s: float = Field(
        600.0, gt=0.0, description="Workers that come no step further for so long are ended, and the run goes on."
    )
    leave_within_s: float = Field(
        100.0, gt=0.0, description="After SIGTERM: leave by then, with the last checkpoint that is durable."
    )
    prices: Prices | None = Field(None, description="Your own prices; a table of the package's otherwise.")


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
