"""What an experiment needs so that it runs on other machines than the user's own: its places, its files, its keys."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tuneyard.cluster.inventory import Inventory
from tuneyard.launch.jobs.packing import Package
from tuneyard.launch.jobs.parity import Found
from tuneyard.trainers.config.checks import check_augment, check_task_and_model, model_variants
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.names import is_user_reference

COMET_KEY = "COMET_API_KEY"
STAND_IN_CLASSES = ("0", "1")
"""For data that are not here: a network's outputs follow their number, and any will do to build it once."""
_PATHS = ("folder", "csv", "npz")


@dataclass(frozen=True, slots=True)
class Change:
    """A value of the experiment that is another on the cluster, and why."""

    key: str
    value: str
    why: str

    @property
    def override(self) -> str:
        """As the command line takes it."""
        return f"{self.key}={self.value}"


def places_on_cluster(experiment: Experiment, inventory: Inventory) -> list[Change]:
    """The experiment's places that a job must have elsewhere: those that are relative to a folder of this machine.

    Raises:
        ConfigError: checkpoints would lie in a folder of one node, which no other sees, and the cluster has no store.
    """
    changes = _store(experiment, inventory)
    directory = Path(experiment.tracking.directory)
    if not directory.is_absolute():
        place = f"{inventory.folder}/tracking"
        changes.append(Change("tracking.directory", place, "on each node; a job's own folder is removed after it"))
    return changes


def check_here(experiment: Experiment, project_dir: Path) -> None:
    """Whatever of the experiment can be checked without its data; the head checks the rest before any trial.

    Raises:
        ConfigError, ModelError: as `tuneyard tune` would say it.
    """
    classes = experiment.data.classes or STAND_IN_CLASSES
    given = experiment.data.channels
    _check_augment(experiment, [3, 1] if given == "auto" else [given])
    check_task_and_model(experiment, project_dir, classes, 3 if given == "auto" else given)


def check_files(experiment: Experiment, package: Package) -> list[str]:
    """Notes on what must lie on every node, since it does not travel.

    Raises:
        ConfigError: a file that the experiment names is not in the package, and cannot be on the nodes either.
    """
    notes = []
    for key, name in _files(experiment):
        path = Path(name)
        if path.is_absolute() or name.startswith("~"):
            notes.append(f"{key}: {name} must lie on the head and on every worker")
        elif not package.holds(path):
            raise ConfigError(f"{key}: {name} {_why_missing(package, path)}")
    return notes


def key_warnings(experiment: Experiment, nodes: Sequence[Found]) -> list[str]:
    """What will be missing on the nodes, whatever the user's own environment has: no key is ever sent."""
    comet = experiment.tracking.comet
    lacking = [node.name for node in nodes if node.python and COMET_KEY not in node.keys]
    wanted = comet.mode == "online" or (comet.mode == "auto" and bool(os.environ.get(COMET_KEY)))
    if not wanted or not lacking:
        return []
    told = (
        f"Comet: {COMET_KEY} is not set on {', '.join(lacking)}, and yours is not sent. Trials there write archives "
        f"into {experiment.tracking.directory}/comet. Put the key into the nodes' environment_file (on-prem) or "
        "parameters (AWS), and apply the cluster again."
    )
    return [told]


def _check_augment(experiment: Experiment, channels: Sequence[int]) -> None:
    """Raises what the first number of channels meets, where none of them will do."""
    try:
        check_augment(experiment, channels[0])
    except ConfigError as error:
        if len(channels) == 1:
            raise
        with suppress(ConfigError):
            _check_augment(experiment, channels[1:])
            return
        raise error from None


def _store(experiment: Experiment, inventory: Inventory) -> list[Change]:
    checkpoint = experiment.checkpoint
    if "://" in checkpoint.store or Path(checkpoint.store).is_absolute():
        return []
    if inventory.store is None:
        raise ConfigError(
            f"checkpoint.store: {checkpoint.store} is a folder of one machine, and a job's own folder is removed after "
            "it. Give a place that every node reaches: checkpoint.store=s3://bucket/prefix, or the absolute path of a "
            "folder that all nodes share."
        )
    why = f"the cluster's store; {checkpoint.store} is a folder here"
    changes = [Change("checkpoint.store", inventory.store, why)]
    if inventory.endpoint_url is not None and checkpoint.endpoint_url is None:
        changes.append(Change("checkpoint.endpoint_url", inventory.endpoint_url, "the cluster's store"))
    if inventory.region is not None and checkpoint.region is None:
        changes.append(Change("checkpoint.region", inventory.region, "the cluster's store"))
    return changes


def place_notes(experiment: Experiment, inventory: Inventory) -> list[str]:
    """What to know of the places that are as the user wrote them."""
    store = experiment.checkpoint.store
    several = bool(inventory.workers) or any(group.count for group in inventory.groups)
    notes = []
    if several and (store.startswith("file:") or Path(store).is_absolute()):
        notes.append(f"checkpoint.store: {store} must be one folder that all nodes share")
    if experiment.checkpoint.profile is not None:
        notes.append(
            f"checkpoint.profile: {experiment.checkpoint.profile} must be in the AWS configuration of every node"
        )
    return notes


def _files(experiment: Experiment) -> Iterable[tuple[str, str]]:
    """The files and folders that the experiment names, with their keys."""
    named = {("task", experiment.task), ("data.source", experiment.data.source)}
    named |= {("model.name", variant.model.name) for variant in model_variants(experiment)}
    if experiment.tune is not None:
        named.add(("tune.search", experiment.tune.search))
    found = {(key, name.rpartition(":")[0]) for key, name in named if is_user_reference(name)}
    kind, colon, rest = experiment.data.source.partition(":")
    if colon and kind in _PATHS and "://" not in rest:
        found.add(("data.source", rest))
    if experiment.train.deepspeed.config is not None:
        found.add(("train.deepspeed.config", experiment.train.deepspeed.config))
    if experiment.checkpoint.ca_bundle is not None:
        found.add(("checkpoint.ca_bundle", experiment.checkpoint.ca_bundle))
    return sorted(found)


def _why_missing(package: Package, path: Path) -> str:
    place = package.place(path)
    if place is None:
        return (
            f"lies outside {package.root}, the folder that is packed. Move it there, or move the experiment file to a "
            "folder above both."
        )
    ignored = (
        "is left out by .gitignore or .rayignore. Take it out of there (a .rayignore with "
        f"!{place} is enough), or put the data where the nodes are: s3://bucket/prefix, or an absolute path on each"
    )
    for left_out, why in (
        (package.secrets, "looks like credentials, which are never sent. Rename it"),
        (package.ignored, ignored),
        (package.links, "is a link, which is not followed. Give the absolute path of a folder that every node has"),
    ):
        if any(one == place or one in place.parents for one in left_out):
            return f"{why}."
    return f"is not in {package.root}. Is its name right? Folders such as .venv and runs are never packed."
