"""What one process is asked to train: plain data that goes through JSON unchanged."""

from typing import Any

from pydantic import Field

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.section import Section


class Provenance(Section):
    """Which code made a run."""

    commit: str | None = Field(None, description="Git commit of the project's folder; None outside a repository.")
    dirty: bool = Field(False, description="Were there changes that the commit does not hold?")
    diff: str = Field("", description="Those changes, as `git diff HEAD` prints them, cut at 1 MB.")


class TrialSpec(Section):
    """One run: the resolved experiment, who it is, and where it keeps its record.

    A run's record and checkpoints lie in the store under `{experiment.name}/{run_id}/`; a sweep's trials under
    `{experiment.name}/{sweep_id}/{run_id}/`.
    """

    run_id: str
    experiment: Experiment
    overrides: dict[str, Any] = Field(default_factory=dict, description="Key path -> value sampled by the sweep.")
    sweep_id: str | None = None
    trial_id: str | None = Field(None, description="The trial that this run is (a part of).")
    part: dict[str, int] = Field(
        default_factory=dict, description="Which part: {fold: k} or {seed: s}; none: all of it."
    )
    until_epoch: int | None = Field(None, description="Pause after this epoch, saved, to go on or be dropped later.")
    clone_of: str | None = Field(None, description="Begin from the newest checkpoint of this run of the same sweep.")
    new_values: bool = Field(
        False, description="Hyperparameters may differ from those of the checkpoint; these hold from now on."
    )
    project_dir: str = Field(description="Folder of the experiment file: task.py and relative data paths start here.")
    store_uri: str = Field(description="file:///PATH or s3://bucket/prefix, absolute.")
    tracking_dir: str = Field(description="Absolute local folder for Comet archives and TensorBoard files.")
    resume: bool = False
    progress: bool = Field(False, description="Show a progress bar, or plain lines where there is no terminal.")
    evaluate_test: bool = Field(
        True, description="Use the test set once at the end; a sweep does it for the winner only."
    )
    provenance: Provenance = Provenance()

    @property
    def prefix(self) -> str:
        """The key prefix of this run in its store, with a trailing slash."""
        parts = (
            [self.experiment.name, self.sweep_id, self.run_id] if self.sweep_id else [self.experiment.name, self.run_id]
        )
        return "/".join(parts) + "/"

    @property
    def blob_prefix(self) -> str:
        """The key prefix under which its checkpoints' blobs lie: the runs of a sweep share them."""
        return f"{self.experiment.name}/{self.sweep_id}/" if self.sweep_id else self.prefix
