"""`tuneyard submit`: an experiment's project, checked and packed, as a job on a cluster."""

import re
import shlex
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tuneyard.cluster.access.connection import Connection, connect
from tuneyard.cluster.amounts import counted, size_text
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory
from tuneyard.cluster.provision.clusters import find_cluster
from tuneyard.launch.jobs.checks import Change, check_files, check_here, key_warnings, place_notes, places_on_cluster
from tuneyard.launch.jobs.jobs import COMMAND, RESUME
from tuneyard.launch.jobs.jobs_command import come_back, follow
from tuneyard.launch.jobs.packing import Package, choose_files, write_package
from tuneyard.launch.jobs.parity import Found, ask_nodes, compare, this_machine
from tuneyard.launch.request import new_run_id
from tuneyard.trainers.config.checks import check_experiment
from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import load_experiment
from tuneyard.trainers.errors import ConfigError
from tuneyard.trainers.provenance import PACKED, capture_provenance

STOP_S = 900
"""How long a job that is stopped may save before Ray kills it."""
WIDTH = 120
"""Of the job's tables, where our own output goes to no terminal."""
SHOWN = 6
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Submission:
    """What the user asked for, beside the experiment: of `tuneyard tune` the options, and where and how to run."""

    cluster: str | None
    name: str | None
    resume: bool
    grow: int | None
    sweep: str | None
    follow: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """An experiment that may be sent: as it will be on the cluster, and the files that go with it."""

    path: Path
    given: list[str]
    wanted: Submission
    experiment: Experiment
    changes: list[Change]
    package: Package
    notes: list[str]

    @property
    def command(self) -> list[str]:
        """What the job does, after `tuneyard`, in the user's own words."""
        options = ["--resume"] if self.wanted.resume else []
        if self.wanted.grow is not None:
            options += ["--grow", str(self.wanted.grow)]
        if self.wanted.sweep is not None:
            options += ["--sweep", self.wanted.sweep]
        return ["tune", self.path.name, *self.given, *options]

    @property
    def resume(self) -> str:
        """The command by which the sweep goes on after a stop."""
        cluster = ["--cluster", self.wanted.cluster] if self.wanted.cluster else []
        return shlex.join(["tuneyard", "submit", str(self.path), *self.given, *cluster, "--resume"])


def submit_command(path: Path, overrides: Sequence[str], wanted: Submission) -> int:
    """Check, pack and send; follow the job unless told not to. Returns the exit status: the job's own.

    Raises:
        ConfigError: the experiment is wrong, or cannot run elsewhere.
        ClusterError: the cluster cannot be reached, refuses, or has other versions.
    """
    console = Console(highlight=False)
    inventory = find_cluster(wanted.cluster).inventory()
    prepared = _prepare(path, overrides, wanted, inventory)
    with connect(inventory) as connection:
        console.print(f"cluster {inventory.name}: looking at its nodes ...")
        send_code = _check_nodes(ask_nodes(connection), prepared.experiment, console)
        for change in prepared.changes:
            console.print(f"{change.override}  ({change.why})", soft_wrap=True)
        for note in prepared.notes:
            console.print(f"note: {note}", soft_wrap=True)
        job_id = f"{wanted.name or prepared.experiment.name}-{new_run_id()}"
        _send(connection, job_id, prepared, send_code, console)
        console.print(f"job {job_id}")
        come_back(job_id, wanted.cluster, console)
        return follow(connection, job_id, wanted.cluster, console) if wanted.follow else 0


def _prepare(path: Path, overrides: Sequence[str], wanted: Submission, inventory: Inventory) -> Prepared:
    """All that can be checked here, before the cluster is asked anything."""
    if wanted.name is not None and not _NAME.fullmatch(wanted.name):
        raise ConfigError(
            f"--name: {wanted.name!r} cannot begin the id of a job. Allowed: letters, digits, '.', '_' and '-', 64 at "
            "most, the first a letter or a digit."
        )
    experiment = load_experiment(path, overrides)
    check_experiment(experiment, sweep=True)
    project_dir = path.absolute().parent
    changes = places_on_cluster(experiment, inventory)
    there = load_experiment(path, [*overrides, *(change.override for change in changes)])
    package = choose_files(project_dir, _results(experiment))
    notes = [*check_files(there, package), *place_notes(there, inventory)]
    check_here(there, project_dir)
    return Prepared(path, list(overrides), wanted, there, changes, package, notes)


def _check_nodes(nodes: Sequence[Found], experiment: Experiment, console: Console) -> bool:
    """Tell what differs; returns whether our code must be sent along. Raises ClusterError where no job should run."""
    head, here = nodes[0], this_machine()
    cpus, gpus = round(sum(node.cpus for node in nodes)), round(sum(node.gpus for node in nodes))
    versions = ", ".join(
        f"{name} {head.version(what) or '-'}"
        for name, what in {"tuneyard": "tuneyard", "Python": "Python", "Ray": "ray", "torch": "torch"}.items()
    )
    console.print(f"{counted(len(nodes), 'node')}, {counted(cpus, 'CPU')}, {counted(gpus, 'GPU')}; {versions}")
    parity = compare(here, nodes)
    if parity.refusals:
        raise ClusterError("This cluster and this machine do not go together:\n  " + "\n  ".join(parity.refusals))
    for warning in [*parity.warnings, *key_warnings(experiment, nodes)]:
        console.print(f"warning: {warning}", soft_wrap=True)
    if parity.send_code:
        version = here.version("tuneyard")
        console.print(f"The nodes have other code than this machine's tuneyard {version}: ours goes with this job.")
    return parity.send_code


def _send(connection: Connection, job_id: str, prepared: Prepared, send_code: bool, console: Console) -> None:
    from tuneyard.launch.jobs.client import submit_job  # imports Ray

    provenance = capture_provenance(prepared.path.absolute().parent)
    line = [connection.inventory.python, "-m", "tuneyard.launch", *prepared.command]
    line += [change.override for change in prepared.changes]
    with tempfile.TemporaryDirectory(prefix="tuneyard-job-") as folder:
        archive = Path(folder) / "project.zip"
        size = write_package(prepared.package, archive, {PACKED: provenance.model_dump_json().encode()})
        _show(prepared.package, size, console)
        submit_job(
            connection, job_id, shlex.join(line), folder=archive,
            modules=_our_code(Path(folder)) if send_code else [],
            environment={
                "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), "COLUMNS": str(shutil.get_terminal_size((WIDTH, 24)).columns),
            },
            metadata={COMMAND: shlex.join(prepared.command), RESUME: prepared.resume},
        )  # fmt: skip


def _our_code(folder: Path) -> list[Path]:
    """Our package, and what pip knows of it, as folders. A wheel would have pip fetch all of its requirements anew."""
    from tuneyard.cluster.provision.wheel import build_wheel

    with zipfile.ZipFile(build_wheel(folder)) as wheel:
        wheel.extractall(folder / "ours")
    return sorted((folder / "ours").iterdir())


def _show(package: Package, size: int, console: Console) -> None:
    files = counted(len(package.sizes), "file")
    console.print(f"package: {files}, {size_text(package.bytes)}, {size_text(size)} compressed")
    large = [(name, each) for name, each in package.largest() if each > 0.1 * package.bytes and each > 1_000_000]
    for name, each in large:
        console.print(f"  {size_text(each):>8}  {name}", soft_wrap=True)
    for names, why in (
        (package.secrets, "looks like credentials"), (package.links, "link to a folder"),
        (package.ignored, ".gitignore, .rayignore"),
    ):  # fmt: skip
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            listed = ", ".join(str(name) for name in names[:SHOWN])
            console.print(f"  left out: {listed}{more} ({why})", soft_wrap=True)


def _results(experiment: Experiment) -> list[Path]:
    """Folders here that hold results of earlier runs."""
    places = [experiment.tracking.directory, "runs"]
    if "://" not in experiment.checkpoint.store:
        places.append(experiment.checkpoint.store)
    return [Path(place).expanduser().absolute() for place in places]
