"""From the command line's words to a TrialSpec: absolute places, and which run or sweep is meant."""

import os
import time
from pathlib import Path

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.errors import ConfigError, choose_from
from tuneyard.trainers.provenance import capture_provenance
from tuneyard.trainers.record import read_run
from tuneyard.trainers.spec import TrialSpec
from tuneyard.trainers.stores.store import Store, open_store


def open_experiment_store(experiment: Experiment) -> Store:
    """The store of the experiment, checked: it can be reached and written to, or StoreError says why not."""
    checkpoint = experiment.checkpoint
    store = open_store(store_uri(experiment), checkpoint.s3_options)
    store.check()
    return store


def store_uri(experiment: Experiment) -> str:
    """The store as an absolute URI; a plain folder is meant from where the command was given."""
    store = experiment.checkpoint.store
    return store if "://" in store else Path(store).expanduser().absolute().as_uri()


def base_spec(experiment: Experiment, path: Path, run_id: str, *, resume: bool, progress: bool) -> TrialSpec:
    """The spec of a run of the experiment at `path`."""
    project_dir = path.absolute().parent
    return TrialSpec(
        run_id=run_id,
        experiment=experiment,
        project_dir=str(project_dir),
        store_uri=store_uri(experiment),
        tracking_dir=str(Path(experiment.tracking.directory).expanduser().absolute()),
        resume=resume,
        progress=progress,
        provenance=capture_provenance(project_dir),
    )


def new_run_id() -> str:
    """Readable, sorted by time, and different for two runs of one second."""
    return time.strftime("%Y%m%d-%H%M%S") + f"-{os.urandom(2).hex()}"


def run_to_resume(store: Store, name: str, run_id: str | None) -> str:
    """The run that `--resume` means: the one named, or the newest; ConfigError where there is none to go on with."""
    chosen = _choose(store, f"{name}/", "run.json", run_id, f"run of {name}")
    if read_run(store, f"{name}/{chosen}/").status == "completed":
        raise ConfigError(f"Run {chosen} is complete: there is nothing to resume. Leave --resume out to train anew.")
    return chosen


def sweep_to_resume(store: Store, name: str, sweep_id: str | None) -> str:
    """The sweep that `--resume` means: the one named, or the newest; ConfigError where there is none."""
    return _choose(store, f"{name}/", "sweep.json", sweep_id, f"sweep of {name}")


def _choose(store: Store, prefix: str, record: str, wanted: str | None, what: str) -> str:
    found = [key.removeprefix(prefix).split("/") for key in store.keys(prefix)]
    ids = sorted(parts[0] for parts in found if len(parts) == 2 and parts[1] == record)
    if not ids:
        raise ConfigError(f"There is no {what} in {store.uri}: nothing to resume. Leave --resume out to begin.")
    if wanted is not None and wanted not in ids:
        raise ConfigError(choose_from(what.capitalize(), wanted, ids))
    return wanted or ids[-1]


def best_checkpoint(experiment: Experiment, target: str, run_id: str) -> str:
    """The URI of a trial's best checkpoint, or a sentence where it has none."""
    from tuneyard.trainers.checkpoints.checkpoints import (
        Checkpoints,  # imports torch, which the sweep's checks have done already
    )
    from tuneyard.trainers.checkpoints.fencing import Onlooker

    checkpoint = experiment.checkpoint
    store = open_store(f"{target}{run_id}", checkpoint.s3_options)
    mode = experiment.tune.mode if experiment.tune else "max"
    best = Checkpoints(store, "", mode=mode, fence=Onlooker(store, "")).best()
    return best.uri if best else "none was saved"
