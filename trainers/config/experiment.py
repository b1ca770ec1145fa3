"""The experiment file as frozen pydantic models: every key, its type, its unit and its default; here as a whole.

`loading.py` reads the YAML into these models; `checks.py` looks at what one model alone cannot see.
"""

from pydantic import Field

from tuneyard.trainers.config.data import DataConfig
from tuneyard.trainers.config.keeping import CheckpointConfig, TrackingConfig
from tuneyard.trainers.config.search import TuneConfig
from tuneyard.trainers.config.section import Section
from tuneyard.trainers.config.training import ModelConfig, OptimizerConfig, ResourcesConfig, ScheduleConfig, TrainConfig


class Experiment(Section):
    """The whole experiment file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Letters, digits, '.', '_' and '-'.")
    task: str = Field("classification", description="classification, or task.py:MyTask.")
    data: DataConfig
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tune: TuneConfig | None = None
