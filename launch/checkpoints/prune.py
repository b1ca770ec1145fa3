"""What `tuneyard checkpoints prune` does: drops checkpoints by a policy, then collects the blobs that nothing needs."""

from collections.abc import Iterable, Sequence

import typer

from tuneyard.cluster.amounts import counted, size_text
from tuneyard.launch.checkpoints.runs import CheckpointRun, checkpoint_runs, manifests_under
from tuneyard.launch.checkpoints.table import say
from tuneyard.trainers.checkpoints.collector import Collector
from tuneyard.trainers.checkpoints.files import Found
from tuneyard.trainers.checkpoints.retention import Retention
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.stores.s3_options import S3Options

Dropped = Sequence[tuple[CheckpointRun, list[Found]]]
"""What is to go, of each run."""


def prune_command(
    targets: Sequence[str], options: S3Options, *, keep_last: int | None, keep_best: int | None,
    older_than: float | None, dry_run: bool, yes: bool, force: bool,
) -> None:  # fmt: skip
    """Delete what the policy does not keep, and the blobs that nothing needs any more.

    Safe while runs are training: a blob that a manifest or a save under way names stays. `force`: saves under way do
    not count. Raises ConfigError where nothing says what stays.
    """
    by_policy = keep_last is not None or keep_best is not None or older_than is not None
    if not by_policy and not force:
        raise ConfigError(
            "prune: nothing says what stays. Give --keep-last, --keep-best or --older-than; or --force to delete only"
            " what saves that were cut off have left behind."
        )
    runs = checkpoint_runs(targets, options)
    dropped = [(run, _dropped(run, keep_last, keep_best, older_than) if by_policy else []) for run in runs]
    if not _tell(dropped, force=force) or dry_run:
        return
    if not yes:
        typer.confirm("Delete them?", abort=True)
    for run, entries in dropped:
        for place, _ in entries:
            run.files.delete(place.key)
    collected = [collector.collect(force=force, measure=True) for collector in _collectors(runs)]
    size, blobs = sum(one.size_bytes for one in collected), sum(one.blobs for one in collected)
    say(f"freed {size_text(size)} in {counted(blobs, 'blob')}")


def _tell(dropped: Dropped, *, force: bool) -> bool:
    """Say what would go; False where that is nothing."""
    for run, entries in dropped:
        if entries:
            steps = ", ".join(str(place.step) for place, _ in entries)
            say(f"{run.label}: {counted(len(entries), 'checkpoint')} to delete, of step {steps}")
    count = sum(len(entries) for _, entries in dropped)
    left_over = sum(collector.preview(force=force).size_bytes for collector in _collectors([run for run, _ in dropped]))
    say(
        f"{counted(count, 'checkpoint')} to delete, with {size_text(_freed_bytes(dropped))} that no other names;"
        f" besides, {size_text(left_over)} that none names"
    )
    return bool(count or left_over)


def _dropped(run: CheckpointRun, keep_last: int | None, keep_best: int | None, hours: float | None) -> list[Found]:
    policy = Retention(
        1 if keep_last is None else keep_last, 1 if keep_best is None else keep_best, hours, run.record.metric.mode
    )
    found = run.files.readable()
    kept = policy.kept(found, run.files.damaged) | run.files.damaged
    return [entry for entry in found if entry[0].key not in kept]


def _freed_bytes(dropped: Dropped) -> int:
    """Bytes of the blobs that only dropped checkpoints name."""
    gone = {run.files.uri(place.key) for run, entries in dropped for place, _ in entries}
    sizes = {
        run.blobs.uri(blob.name): blob.size_bytes
        for run, entries in dropped for _, manifest in entries
        for part in manifest.parts.values() for blob in part.blobs
    }  # fmt: skip
    needed = {
        run.blobs.uri(name)
        for run in _one_of_each_place([run for run, _ in dropped])
        for uri, manifest in manifests_under(run) if uri not in gone
        for name in manifest.blob_names
    }  # fmt: skip
    return sum(size for uri, size in sizes.items() if uri not in needed)


def _collectors(runs: Iterable[CheckpointRun]) -> list[Collector]:
    return [Collector(run.store, run.blob_prefix) for run in _one_of_each_place(runs)]


def _one_of_each_place(runs: Iterable[CheckpointRun]) -> list[CheckpointRun]:
    """Of the runs that share their blobs one is enough."""
    return list({run.blobs.uri(""): run for run in runs}.values())
