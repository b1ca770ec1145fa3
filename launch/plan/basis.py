"""What a plan rests on: this machine, prices, the values that trials will have, and how quickly some of them train."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneyard.trainers.config.experiment import Experiment
from tuneyard.trainers.config.loading import with_overrides
from tuneyard.trainers.config.search import TuneConfig
from tuneyard.trainers.config.training import Prices
from tuneyard.trainers.errors import TuneyardError
from tuneyard.trainers.spec import TrialSpec

if TYPE_CHECKING:
    from tuneyard.trainers.pace import MeasuredPace
    from tuneyard.trainers.session import Session


@dataclass(frozen=True, slots=True)
class Measured:
    """One configuration: its pace here, or why it has none."""

    overrides: dict[str, Any]
    pace: "MeasuredPace | None"
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs here, and what one run of the sweep takes of it, all its workers together."""

    name: str
    gpu: str | None
    workers: int
    cpus: float
    gpus: float
    room: int
    """Runs at a time."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What the money is reckoned by; `spot`: what the table has for machines that may be taken away."""

    prices: Prices
    spot: Prices | None
    source: str


def this_machine(experiment: Experiment) -> Machine:
    """What this machine is, and how many runs it has room for: one at least, though it may be meant for elsewhere."""
    import torch

    from tuneyard.trainers.provenance import environment
    from tuneyard.trainers.session import available_cores

    wanted = experiment.resources
    found = torch.cuda.device_count() if torch.cuda.is_available() and wanted.gpus_per_worker != 0 else 0
    workers = 1 if wanted.workers == "auto" else wanted.workers
    share = float(found >= workers) if wanted.gpus_per_worker == "auto" else float(wanted.gpus_per_worker)
    cpus = workers * (1 if wanted.cpus_per_worker == "auto" else wanted.cpus_per_worker)
    gpus = workers * share
    cores = available_cores()
    room = cores // cpus if gpus == 0 else min(cores // cpus, int(found / gpus + 1e-9))
    gpu = torch.cuda.get_device_name(0) if found and gpus else None
    name = f"{found} x {gpu}, {cores} cores" if gpu else f"{environment()['cpu_model']}, {cores} cores"
    return Machine(name, gpu, workers, float(cpus), gpus, max(room, 1))


def find_prices(experiment: Experiment, gpu: str | None) -> Basis:
    """The experiment's own prices, or the table's for this GPU (None: for a core); zero where it has none."""
    own = experiment.resources.prices
    if own is not None:
        return Basis(own, None, "resources.prices")
    from tuneyard.cluster.money.prices import price_of, priced_gpus

    price, spot = price_of(gpu), price_of(gpu, spot=True)
    if price is None or spot is None:
        known = ", ".join(priced_gpus())
        return Basis(Prices(), None, f"none: the table has no {gpu} (it has {known}); set resources.prices")
    return Basis(
        Prices(gpu_hour=price.gpu_hour, cpu_hour=price.cpu_hour, currency=price.currency),
        Prices(gpu_hour=spot.gpu_hour, cpu_hour=spot.cpu_hour, currency=spot.currency),
        f"{price.source}, as of {price.as_of}; approximate, and resources.prices takes its place",
    )


def draw(config: TuneConfig, project_dir: Path) -> list[dict[str, Any]]:
    """Values for all the trials: what a grid has, otherwise points and random ones, since nothing is learned here."""
    from tuneyard.tune.search.build_searcher import build_searcher
    from tuneyard.tune.search.searcher import Tried

    search = "grid" if config.search == "grid" else "random"
    searcher = build_searcher(config.model_copy(update={"search": search}), project_dir)
    drawn: list[Tried] = []
    while len(drawn) < config.trials and (values := searcher.ask(drawn)) is not None:
        drawn.append(Tried(values, (0.0,), "completed"))
    return [tried.overrides for tried in drawn]


def measure(
    experiment: Experiment, values: dict[str, Any], path: Path, session: "Session", workers: int, steps: int
) -> Measured:
    """Measure the configuration. Where memory does not suffice, with smaller micro-batches, if the sweep would."""
    from tuneyard.trainers.pace import OutOfMemoryHereError, measure_pace

    accumulate = 1
    while True:
        try:
            varied = with_overrides(experiment, values)
            train = varied.train.model_copy(update={"accumulate": varied.train.accumulate * accumulate})
            spec = TrialSpec(
                run_id="plan", experiment=varied.model_copy(update={"train": train}), overrides=values,
                project_dir=str(path.absolute().parent), store_uri="", tracking_dir="", evaluate_test=False,
            )  # fmt: skip
            return Measured(values, measure_pace(spec, session, steps=steps, workers=workers))
        except OutOfMemoryHereError as error:
            accumulate *= 2
            again = train.on_out_of_memory == "accumulate" and train.batch_size >= 2 * train.accumulate * workers
            if not again:
                return Measured(values, None, str(error))
        except TuneyardError as error:
            return Measured(values, None, str(error))
