"""A worker process that is kept for many runs.

`python -m tests.trainers.parallel.kept_worker JOBS.json RANK WORKERS PORT`

JOBS.json: a list of {"spec": TrialSpec, "stop_after": steps or null, "alone": bool}. Jobs that are alone come first,
and are the main worker's. Writes out-RANK.json beside it: for each job {"seconds": ..., "resident_bytes": ...}.
"""

import gc
import json
import sys
import time
from pathlib import Path

from tests.trainers.runs import StopAfter
from tuneyard.trainers.errors import InterruptedRunError
from tuneyard.trainers.memory import resident_bytes
from tuneyard.trainers.parallel import process_group
from tuneyard.trainers.progress import Silent
from tuneyard.trainers.run import train
from tuneyard.trainers.session import Session
from tuneyard.trainers.spec import TrialSpec


def main(jobs_path: Path, rank: int, workers: int, port: int) -> None:
    session = Session(threads=1, cpu=True)
    taken = []
    for job in json.loads(jobs_path.read_text()):
        if job["alone"] and rank != 0:
            continue
        if not job["alone"] and not process_group.joined():
            process_group.join(
                rank=rank, world_size=workers, local_rank=rank, local_world_size=workers, address="127.0.0.1",
                port=port, backend="gloo", interface_address="127.0.0.1",
            )  # fmt: skip
        began = time.perf_counter()
        try:
            train(TrialSpec.model_validate(job["spec"]), session, Silent(), StopAfter(job["stop_after"]))
        except InterruptedRunError:
            assert job["stop_after"] is not None
        assert process_group.joined() != job["alone"]
        seconds = time.perf_counter() - began
        gc.collect()
        taken.append({"seconds": seconds, "resident_bytes": resident_bytes()})
    process_group.leave()
    session.close()
    jobs_path.with_name(f"out-{rank}.json").write_text(json.dumps(taken))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:]))
