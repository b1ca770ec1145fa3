"""The sections `checkpoint` and `tracking`: what is kept of a run, and where."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from tuneyard.trainers.config.section import Section
from tuneyard.trainers.stores.s3_options import S3Options


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
