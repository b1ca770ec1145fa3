"""Comet, as the tracking process uses it: one experiment for each run, online or as an archive for `comet upload`."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tuneyard.trainers.tracking.sinks import Counts

if TYPE_CHECKING:
    from comet_ml import CometExperiment

_RETRY_ONLINE_S = 600.0  # after Comet could not be reached, runs go into archives for so long before it is tried again


class Comet:
    """Opens one Comet experiment after another: online where that works, else as archives for `comet upload`."""

    def __init__(self, problem: Callable[[str], None]) -> None:
        """`problem` is told what the user should know."""
        _quiet_comet()
        import comet_ml

        self._module = comet_ml
        self._problem = problem
        self._offline_until = 0.0
        self._sink: CometSink | None = None
        logging.getLogger("comet_ml").addHandler(_Errors(problem))

    def open(self, message: dict[str, Any]) -> "CometSink":
        """Start the experiment that a `begin` message describes, or go on with it where it exists."""
        self._sink = None
        if self._online_wanted(message["comet"]["mode"]):
            try:
                self._sink = CometSink(self._start(message, online=True), message, "online")
                return self._sink
            except Exception as fault:  # noqa: BLE001 -- no network, no right, no such workspace: the archive takes all
                self._offline_until = time.monotonic() + _RETRY_ONLINE_S
                where = message["comet"]["directory"]
                self._problem(
                    f"Comet cannot be used online, so runs are written to {where} for `comet upload`: {_short(fault)}"
                )
        self._sink = CometSink(self._start(message, online=False), message, "offline")
        return self._sink

    def state(self) -> dict[str, Any]:
        """The mode, the URL and the archives of the newest experiment, for the report."""
        return self._sink.state() if self._sink is not None else {"comet_mode": "off"}

    def _online_wanted(self, mode: str) -> bool:
        if mode == "offline" or time.monotonic() < self._offline_until:
            return False
        from comet_ml.config.config_api import get_api_key, get_config

        if get_api_key(None, get_config()):
            return True
        if mode == "online":
            self._problem(
                "tracking.comet.mode is online, but Comet found no API key: set COMET_API_KEY or run `comet login`. "
                "Until then runs are written as archives for `comet upload`."
            )
        return False

    def _start(self, message: dict[str, Any], *, online: bool) -> "CometExperiment":
        comet = message["comet"]
        Path(comet["directory"]).mkdir(parents=True, exist_ok=True)
        config = self._module.ExperimentConfig(
            name=message["name"],
            tags=message["tags"],
            offline_directory=comet["directory"],
            display_summary_level=0,
            # Of the automatic parts only those are left that describe this machine: the rest would describe this
            # helper process, or walk through git's whole history (`provenance.py` has what is needed of that).
            log_code=False,
            log_graph=False,
            parse_args=False,
            log_git_metadata=False,
            log_git_patch=False,
            log_env_network=False,
            log_env_disk=False,
            auto_output_logging="",
            auto_param_logging=False,
            auto_metric_logging=False,
            auto_log_co2=False,
        )
        # get_or_create, always with the run's own key: a resumed run stays one experiment, and archives of several
        # attempts can be uploaded in any order. Each attempt's archive has a name of its own.
        experiment = self._module.start(
            online=online,
            mode="get_or_create",
            experiment_key=message["key"],
            project_name=comet["project"],
            workspace=comet["workspace"],
            experiment_config=config,
        )
        if online and not experiment.alive:
            raise ConnectionError("Comet refused the experiment; its own message says why")
        return experiment


class CometSink:
    """One Comet experiment."""

    name = "Comet"

    def __init__(self, experiment: "CometExperiment", message: dict[str, Any], mode: str) -> None:
        """`message` is the `begin` message; `mode` is online or offline."""
        self._experiment = experiment
        self._mode = mode
        self._key = message["key"]
        self._directory = Path(message["comet"]["directory"])
        _shorten_waits(experiment)
        experiment.log_parameters(message["parameters"], nested_support=False)
        experiment.log_others(message["others"])

    def metrics(self, values: dict[str, float], step: int, epoch: int) -> None:
        """Log scalar metrics under their own names."""
        self._experiment.log_metrics(values, step=step, epoch=epoch)

    def page(self, title: str, page: Image.Image, step: int) -> None:
        """Log one PNG; pages of one title form a series over the steps."""
        self._experiment.log_image(page, name=title, step=step)

    def confusion(self, matrix: Counts, classes: Sequence[str], step: int, epoch: int) -> None:
        """Log Comet's own interactive matrix."""
        self._experiment.log_confusion_matrix(
            matrix=matrix.tolist(),
            labels=list(classes),
            max_categories=len(classes),
            title=f"Validation, epoch {epoch}",
            file_name=f"confusion-matrix-{epoch:04d}.json",
            step=step,
            epoch=epoch,
        )

    def text(self, name: str, text: str) -> None:
        """Log an asset, replacing that of an earlier attempt."""
        self._experiment.log_asset_data(text, name=name, overwrite=True)

    def finish(self, status: str | None) -> None:
        """Upload the rest, or write the archive."""
        if status is not None:
            self._experiment.log_other("status", status)
        self._experiment.end()

    def state(self) -> dict[str, Any]:
        """Mode, URL (online only) and this machine's archives of the run, of earlier attempts too."""
        archives = [str(path) for path in sorted(self._directory.glob(f"{self._key}*.zip"))]
        url = self._experiment.url if self._mode == "online" else None
        return {"comet_mode": self._mode, "url": url, "archives": archives}


def _quiet_comet() -> None:
    """Settings that Comet reads from the environment when it is imported. What the user set stays."""
    for name, value in {
        "COMET_DISABLE_AUTO_LOGGING": "1",  # no patching of other libraries: nothing is trained in this process
        "COMET_ERROR_TRACKING_ENABLE": "false",
        "COMET_DISABLE_ANNOUNCEMENT": "true",
        # Comet tries for 18 s to reach a server that refuses, and longer one that does not answer.
        "COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL": "2",
        "COMET_GET_OR_ADD_EXPERIMENT_RETRY_CONNECT": "2",
        "COMET_TIMEOUT_CLEANING": "600",
    }.items():
        os.environ.setdefault(name, value)


def _shorten_waits(experiment: "CometExperiment") -> None:
    """Let two of Comet's threads notice the end of an experiment in 0.3 s and not in 2 s; a sweep has many ends."""
    metrics_thread, streamer = experiment.system_metrics_thread, experiment.streamer
    if metrics_thread is not None:
        metrics_thread.probe_interval = 0.2  # how often it looks; what it logs keeps its own interval of 30 s
    if streamer is not None:
        streamer.queue_timeout = 0.1


class _Errors(logging.Handler):
    """Comet logs some of its faults instead of raising them: tell the user those that lose data."""

    def __init__(self, problem: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._problem = problem

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one error on; a failed start is told by who started it."""
        if record.module != "comet_start":
            self._problem(f"Comet: {_short(record.getMessage())}")


def _short(fault: object) -> str:
    text = " ".join(str(fault).split())
    return text if len(text) <= 300 else text[:300] + "…"
