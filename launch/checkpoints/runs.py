"""The runs whose checkpoints a command is about: where each keeps them, and what it keeps."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tuneyard.trainers.checkpoints.blobs import Blobs
from tuneyard.trainers.checkpoints.fencing import Onlooker
from tuneyard.trainers.checkpoints.files import CheckpointFiles, Found, newest_of_each_step
from tuneyard.trainers.checkpoints.manifest import Manifest
from tuneyard.trainers.checkpoints.retention import Retention
from tuneyard.trainers.checkpoints.upkeep import Upkeep
from tuneyard.trainers.errors import CheckpointError
from tuneyard.trainers.record import RunRecord, read_run
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Store, open_store
from tuneyard.tune.reports.run_folders import find_runs


@dataclass(frozen=True, slots=True)
class CheckpointRun:
    """One run: its manifests lie under `prefix` of `store`, its blobs under `blob_prefix`."""

    record: RunRecord
    store: Store
    prefix: str
    blob_prefix: str
    files: CheckpointFiles
    blobs: Blobs
    upkeep: Upkeep

    @property
    def label(self) -> str:
        """What tells it apart from other runs."""
        return self.record.run_id

    def found(self) -> list[Found]:
        """Its checkpoints that have a readable manifest, by step; of each step the one that counts."""
        return newest_of_each_step(self.files.readable())

    def best(self, found: list[Found]) -> Found | None:
        """The one with the best metric, of equal ones the newest."""
        ranked = Retention(mode=self.record.metric.mode).ranked(found)
        return ranked[0] if ranked else None


def checkpoint_runs(targets: Sequence[str], options: S3Options) -> list[CheckpointRun]:
    """Every run under the targets, each once; MissingKeyError where a target has none."""
    runs: dict[str, CheckpointRun] = {}
    for target in targets:
        found = find_runs(target, options)
        for prefix in found.runs:
            run = _at(found.store, prefix, options)
            runs.setdefault(f"{run.store.uri}/{run.prefix}", run)
    if not runs:
        raise CheckpointError(f"checkpoints: the sweep under {', '.join(targets)} has no runs yet.")
    return list(runs.values())


def only_run(target: str, options: S3Options) -> CheckpointRun:
    """The one run that is meant: that under the target, or the winner of the one sweep there."""
    runs = checkpoint_runs([target], options)
    if len(runs) == 1:
        return runs[0]
    found = find_runs(target, options)
    if len(found.sweeps) == 1:
        winners = found.read_sweep(found.sweeps[0]).winner_runs
        named = [run for run in runs if run.label in winners]
        if len(named) == 1:
            return named[0]
    labels = sorted(run.label for run in runs)
    listed = ", ".join(labels[:10]) + (f" and {len(labels) - 10} more" if len(labels) > 10 else "")
    raise CheckpointError(
        f"checkpoints: {target!r} holds several runs: {listed}. Give the folder or URI of one of them."
    )


def manifests_under(run: CheckpointRun) -> list[tuple[str, Manifest]]:
    """The manifests of every run that shares this one's blobs, its own too, each with its URI."""
    prefixes = {run.prefix}
    for key in run.store.keys(run.blob_prefix):
        if match := re.fullmatch(r"(|.*/)checkpoints/\d{10}/manifest-[^/]*\.json", key):
            prefixes.add(match[1])
    found = []
    for prefix in sorted(prefixes):
        files = CheckpointFiles(run.store, prefix)
        found += [(files.uri(place.key), manifest) for place, manifest in files.readable()]
    return found


def _at(store: Store, prefix: str, options: S3Options) -> CheckpointRun:
    record = read_run(store, prefix)
    if record.sweep_id is not None and not prefix:
        # The target is the run's own folder; the blobs, which the sweep's runs share, lie beside it.
        above, _, name = store.uri.rpartition("/")
        store, prefix = open_store(above, options), f"{name}/"
    shared = re.sub(r"[^/]*/$", "", prefix) if record.sweep_id is not None else prefix
    fence = Onlooker(store, prefix)
    return CheckpointRun(
        record, store, prefix, shared, CheckpointFiles(store, prefix, fence), Blobs(store, shared),
        Upkeep(store, prefix, shared, fence),
    )  # fmt: skip
