"""The other workers of a trial, each a Ray actor in a bundle of the trial's placement group."""

import ray

from tuneyard.trainers.spec import TrialSpec
from tuneyard.tune.project import project_here
from tuneyard.tune.worker import Answer, Failure, Resources, Worker


class WorkerActor:
    """A worker in a process of its own. It dies with worker 0, which owns it: Ray sees to that, however that ends."""

    def __init__(self, resources: Resources, rank: int) -> None:
        self._worker = Worker(resources, rank)

    def where(self) -> str:
        """The address of this worker's node; the answer also says that the process has started."""
        return str(ray.util.get_node_ip_address())

    def join(self, workers: int, address: str, port: int, interface: str | None, timeout_s: float) -> Failure | None:
        """Join the trial's process group."""
        return self._worker.join(workers, address, port, interface or self.where(), timeout_s)

    def train_epoch(self, spec_json: str, leg: int) -> Answer:
        """Train one epoch together with the others; a run that failed is closed here."""
        # Worker 0 alone looks for the wish to stop: they vote.
        spec = project_here(TrialSpec.model_validate_json(spec_json))
        answer = self._worker.train_epoch(spec, leg, lambda: False)
        if isinstance(answer, Failure):
            self._worker.end("failed", answer.text)
            if answer.out_of_memory:
                self._worker.release()
        return answer
