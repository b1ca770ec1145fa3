"""Runs a sweep on the Ray that the environment names, and tells each event with its time: `sweeping.py FOLDER OUT`."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.tune.sweeps import Heard, sweep

CHANGES = {
    "model.args": {"wait_s": 0.1}, "train.epochs": 40, "tune.max_failures": 0, "tune.trials": 1,
}  # fmt: skip
"""One trial, of about a second an epoch, that may not fail once."""


class Telling:
    """Writes a line of JSON whenever something new was heard."""

    def __init__(self, out: Path) -> None:
        self._out, self._told = out, dict[str, int]()

    def __call__(self, heard: Heard) -> bool:
        events: dict[str, list[Any]] = {
            "began": heard.began,
            "row": heard.rows,
            "moved": heard.moved,
            "retried": heard.retried,
        }
        with self._out.open("a") as file:
            for name, all_of_them in events.items():
                for event in all_of_them[self._told.get(name, 0) :]:
                    what = [event] if isinstance(event, str) else list(event)
                    file.write(json.dumps({"time": time.time(), "event": name, "what": what}) + "\n")
                self._told[name] = len(all_of_them)
        return False


if __name__ == "__main__":
    telling = Telling(Path(sys.argv[2]))
    swept = sweep(Path(sys.argv[1]), CHANGES, stop_when=telling)
    telling(swept.heard)
    with Path(sys.argv[2]).open("a") as file:
        ended = {run_id: record.status for run_id, record in swept.records.items()}
        file.write(json.dumps({"time": time.time(), "event": "over", "what": [ended]}) + "\n")
