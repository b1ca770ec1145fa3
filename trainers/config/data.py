"""The section `data`: where the images are, how they are divided, and what is done to them."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tuneyard.trainers.config.section import Fraction, Section
from tuneyard.trainers.stores.s3_options import S3Options

TransformArgs = dict[str, Any]


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
