"""The sections `model`, `optimizer`, `schedule`, `train` and `resources`: what is trained, how, and with what."""

from typing import Annotated, Any, Literal

from pydantic import Field

from tuneyard.trainers.config.section import Section


class ModelConfig(Section):
    """Which network."""

    name: str = Field("reference/small-cnn", description="reference/small-cnn, timm/NAME, or task.py:build_model.")
    pretrained: bool = Field(False, description="Start from the pretrained weights that the model's source offers.")
    args: dict[str, Any] = Field(default_factory=dict, description="Arguments for the model's builder, such as width.")


class OptimizerConfig(Section):
    """AdamW or SGD. Norms and biases get no weight decay."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0.0, description="Peak learning rate.")
    weight_decay: float = Field(0.05, ge=0.0)
    betas: Annotated[list[Annotated[float, Field(ge=0.0, lt=1.0)]], Field(min_length=2, max_length=2)] = Field(
        default=[0.9, 0.999], description="AdamW's decay rates of the first and second moment."
    )
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="SGD's momentum.")
    nesterov: bool = Field(True, description="SGD with Nesterov's momentum.")


class ScheduleConfig(Section):
    """How the learning rate moves, step by step."""

    name: Literal["cosine", "onecycle", "constant"] = "cosine"
    warmup_epochs: float = Field(
        0.0, ge=0.0, description="Linear warm-up from zero; for onecycle the rise to the peak."
    )
    final_ratio: float = Field(0.0, ge=0.0, le=1.0, description="Last learning rate, as a share of the peak.")


class DeepSpeedConfig(Section):
    """What the strategies zero1 to zero3 take beside their stage."""

    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="What lies in the CPU's memory: the optimizer's state, or (zero3) the parameters too."
    )
    config: str | None = Field(
        None, description="A DeepSpeed JSON file of your own, from this file's folder; its stage is the strategy's."
    )


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(128, ge=1, description="The global batch: over all workers and accumulation steps.")
    accumulate: int = Field(1, ge=1, description="Micro-batches that each worker sums before a step.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="fp16 scales the loss.")
    strategy: Literal["ddp", "zero1", "zero2", "zero3"] = Field(
        "ddp", description="How workers share the work; zero1 to zero3 (DeepSpeed) also share the memory."
    )
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    clip_norm: float | None = Field(None, gt=0.0, description="Clip the gradient's global norm to this.")
    ema_epochs: float | None = Field(
        None, gt=0.0,
        description="Validate, choose and predict with weights averaged exponentially over about so many epochs.",
    )  # fmt: skip
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    channels_last: bool = Field(True, description="NHWC memory layout, faster for convolutions.")
    on_out_of_memory: Literal["fail", "accumulate"] = Field(
        "fail",
        description="accumulate: a sweep retries the trial with half the micro-batch and twice train.accumulate.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1)


class Prices(Section):
    """What the hardware costs while it is held."""

    gpu_hour: float = Field(0.0, ge=0.0, description="One GPU for an hour.")
    cpu_hour: float = Field(0.0, ge=0.0, description="One core for an hour, where no GPU is priced.")
    currency: str = "USD"


class ResourcesConfig(Section):
    """What one trial gets."""

    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="Worker processes; auto: one for each GPU here in `train`, one in `tune`."
    )
    gpus_per_worker: Literal["auto"] | Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        "auto", description="auto: 1 where there is a GPU, else 0. 0.25 puts four workers of a sweep on one GPU."
    )
    cpus_per_worker: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="auto: all of this machine's cores shared out among the workers in `train`, 1 in `tune`."
    )
    memory_per_worker_gb: float | None = Field(
        None, gt=0.0, description="A worker that holds more main memory than this (in 1e9 bytes) ends its run."
    )
    spare_workers: Literal["auto"] | Annotated[int, Field(ge=0, le=16)] = Field(
        "auto",
        description="Processes that `train` keeps ready for a worker that is lost; auto: one beside several workers.",
    )
    max_restarts: int = Field(
        3, ge=0, description="How often `train` goes on by itself after one of several workers was lost or hung."
    )
    hang_timeout_s: float = Field(
        600.0, gt=0.0, description="Workers that come no step further for so long are ended, and the run goes on."
    )
    leave_within_s: float = Field(
        100.0, gt=0.0, description="After SIGTERM: leave by then, with the last checkpoint that is durable."
    )
    prices: Prices | None = Field(None, description="Your own prices; a table of the package's otherwise.")
