"""The process that talks to Comet and the other trackers, so that training neither imports nor waits for them.

`tracking.Tracker` starts it, detached, and sends it messages through a pipe. It reports, as JSON lines on its standard
output, what it opened and what went wrong. It outlives the training process: when the pipe ends, however that came
about, it writes what it has, ends the experiment and leaves.
"""

import contextlib
import json
import os
import signal
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuneyard.trainers.tracking.comet import Comet
    from tuneyard.trainers.tracking.sinks import Sink

Message = dict[str, Any]
_LENGTHS = struct.Struct(">IQ")
_NICENESS = 10  # on a busy machine training comes first: metrics may be late


def write_frame(pipe: IO[bytes], message: Message, blob: bytes | memoryview = b"") -> None:
    """Send one message (JSON) and the raw bytes of its array. Raises `OSError` when nobody reads any more."""
    header = json.dumps(message).encode()
    pipe.write(_LENGTHS.pack(len(header), len(blob)))
    pipe.write(header)
    if blob:
        pipe.write(blob)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> tuple[Message, bytes] | None:
    """The next message and its bytes; None at the end of the pipe, also when it ends in the middle of a message."""
    lengths = pipe.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header_bytes, blob_bytes = _LENGTHS.unpack(lengths)
    header, blob = pipe.read(header_bytes), pipe.read(blob_bytes)
    if len(header) < header_bytes or len(blob) < blob_bytes:
        return None
    message: Message = json.loads(header)
    return message, blob


class Reporter:
    """Tells the training process what happened, while it is there to listen; says the same thing once."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._said: set[str] = set()

    def problem(self, text: str) -> None:
        """Something that the user should know; training goes on."""
        if text not in self._said:
            self._said.add(text)
            self.send({"problem": text})

    def send(self, report: Message) -> None:
        """One line of JSON."""
        # A training process that was killed does not listen any more; the archive matters then, not the report.
        with contextlib.suppress(OSError):
            self._pipe.write(json.dumps(report).encode() + b"\n")
            self._pipe.flush()


class Replay:
    """Hands each message to the trackers of the run that it belongs to. Runs come one after another."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._comet: Comet | None = None
        self._sinks: list[Sink] = []
        self._run = 0

    def handle(self, message: Message, blob: bytes) -> None:
        """Act on one message: `begin`, `metrics`, `images`, `confusion` or `finish`."""
        match message["op"]:
            case "begin":
                self.finish("unfinished")
                self._begin(message)
            case "metrics":
                self._each(lambda sink: sink.metrics(message["values"], message["step"], message["epoch"]))
            case "images":
                self._draw_page(message, blob)
            case "confusion":
                self._confusion(message, blob)
            case "finish":
                self.finish(message["status"])

    def finish(self, status: str | None) -> None:
        """End the run's trackers, and report the files that they left."""
        if self._sinks:
            self._each(lambda sink: sink.finish(status))
            self._report_run()
            self._sinks = []

    def _begin(self, message: Message) -> None:
        # Here and not at the top: the client imports this file for its frames, and must stay light.
        import yaml

        from tuneyard.trainers.tracking import sinks as tracking_sinks

        self._run = message["run"]
        sys.argv = message["command"]  # the trackers show it as the command that made the run
        if message["comet"] is not None:
            self._open("Comet", self._open_comet, message)
        for name in message["also"]:
            self._open(name, partial(tracking_sinks.AccelerateSink, name), message)
        self._report_run()
        experiment = yaml.safe_dump(message["experiment"], sort_keys=False, allow_unicode=True)
        self._each(lambda sink: sink.text("experiment.yaml", experiment))
        if message["diff"]:
            self._each(lambda sink: sink.text("git.diff", message["diff"]))

    def _open_comet(self, message: Message) -> "Sink":
        from tuneyard.trainers.tracking.comet import Comet

        if self._comet is None:
            self._comet = Comet(self._reporter.problem)
        return self._comet.open(message)

    def _open(self, name: str, make: Callable[[Message], "Sink"], message: Message) -> None:
        try:
            self._sinks.append(make(message))
        except Exception as fault:  # noqa: BLE001 -- whatever a tracker raises, the others and the training go on
            self._reporter.problem(f"{name} could not be started, and will hold nothing of this run: {fault}")

    def _draw_page(self, message: Message, blob: bytes) -> None:
        import numpy as np

        from tuneyard.trainers.tracking.sinks import mosaic

        images = np.frombuffer(blob, np.uint8).reshape(message["shape"])
        page = mosaic(images, message["captions"])
        self._each(lambda sink: sink.page(message["title"], page, message["step"]))

    def _confusion(self, message: Message, blob: bytes) -> None:
        import numpy as np

        matrix = np.frombuffer(blob, "<i8").reshape(message["shape"])
        self._each(lambda sink: sink.confusion(matrix, message["classes"], message["step"], message["epoch"]))

    def _each(self, act: Callable[["Sink"], None]) -> None:
        for sink in list(self._sinks):
            try:
                act(sink)
            except Exception as fault:  # noqa: BLE001 -- whatever a tracker raises, the others and the training go on
                self._sinks.remove(sink)
                self._reporter.problem(f"{sink.name} stopped working, and misses the rest of this run: {fault!r}")

    def _report_run(self) -> None:
        report: Message = {"run": self._run, "also": [sink.name for sink in self._sinks if sink.name != "Comet"]}
        if self._comet is not None:
            report |= self._comet.state()
        self._reporter.send(report)


def _detach() -> None:
    """Become nobody's child: Ray kills the children of a worker that leaves, and this one has an archive to finish."""
    if os.fork() > 0:
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of the pipe says when to leave
    os.nice(_NICENESS)


def main() -> None:
    """Replay messages from standard input until it ends."""
    _detach()
    reporter = Reporter(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # what libraries print must not mix with the reports
    reporter.send({"pid": os.getpid()})
    with contextlib.suppress(OSError):  # a node may not have that folder
        os.chdir(sys.argv[1])  # where Comet looks for .comet.config
    replay = Replay(reporter)
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        replay.handle(*frame)
    replay.finish("unfinished")
    reporter.send({"done": True})


if __name__ == "__main__":
    main()
