"""Writes the learning curves of a sweep into one small file: what was tried, and the metric after each epoch.

    python benchmarks/export_curves.py runs/curves/20261121-235833-156e benchmarks/curves/fashion_mnist.json.gz

Runs that are still training are left out. Of one that diverged the epochs before are kept.
"""

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Read the run folders and write the file; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="the sweep's folder in its store")
    parser.add_argument("out", type=Path, help="the file to write, .json.gz")
    arguments = parser.parse_args()
    found = curves(arguments.sweep)
    if not found["trials"]:
        sys.exit(f"{arguments.sweep} has no run that has ended.")
    # Without a time in the header, the same curves make the same file.
    arguments.out.write_bytes(gzip.compress(json.dumps(found, separators=(",", ":")).encode(), mtime=0))
    print(f"{len(found['trials'])} curves, {arguments.out.stat().st_size} bytes")
    return 0


def curves(sweep: Path) -> dict[str, Any]:
    """Metric, epochs, space, and for each run its values in the space's order and its metric's values."""
    records = [json.loads(path.read_text()) for path in sorted(sweep.glob("*/run.json"))]
    ended = [record for record in records if record["status"] in ("completed", "failed")]
    if not ended:
        return {"trials": []}
    tune = ended[0]["experiment"]["tune"]
    space = {key: {kind: values for kind, values in domain.items() if values} for key, domain in tune["space"].items()}
    trials = [
        {
            "overrides": [record["overrides"][key] for key in space],
            "values": metric_values(sweep / record["run_id"] / "metrics.jsonl", tune["metric"]),
        }
        for record in ended
    ]
    return {
        "metric": tune["metric"], "epochs": ended[0]["experiment"]["train"]["epochs"], "space": space, "trials": trials,
    }  # fmt: skip


def metric_values(path: Path, metric: str) -> list[float]:
    """The metric after each epoch; none where the run has no rows."""
    if not path.exists():
        return []
    return [json.loads(line)[metric] for line in path.read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
