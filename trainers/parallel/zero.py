"""DeepSpeed's ZeRO stages (Rajbhandari et al., arXiv 1910.02054) behind the engine: steps, and whole states.

The workers share the optimizer's state (stage 1), the gradients (2) and the parameters (3) out among themselves.
Outside, a state is what torch's own `state_dict` gives with one worker, so that it loads under any strategy.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def import_deepspeed(*, cpu: bool) -> None:
    """Import DeepSpeed, which takes seconds, for this kind of device, and without log lines on the user's terminal."""
    if cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # Where there is a compiler it would spend minutes on building this, which serves inference alone.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class LossScale:
    """The dynamic loss scale of fp16 (Micikevicius et al., arXiv 1710.03740), as torch.amp.GradScaler moves it.

    GradScaler itself looks at gradients, of which a worker has only its share here. The states are interchangeable.
    """

    def __init__(self) -> None:
        self.scale = 65536.0
        self._growth, self._backoff, self._interval, self._streak = 2.0, 0.5, 2000, 0

    def update(self, *, overflow: bool) -> None:
        """Half after an overflow, twice after 2000 steps without."""
        self._streak = 0 if overflow else self._streak + 1
        if overflow:
            self.scale *= self._backoff
        elif self._streak == self._interval:
            self.scale, self._streak = self.scale * self._growth, 0

    def state_dict(self) -> dict[str, Any]:
        """As GradScaler's."""
        return {
            "scale": self.scale, "growth_factor": self._growth, "backoff_factor": self._backoff,
            "growth_interval": self._interval, "_growth_tracker": self._streak,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a state of GradScaler's, too."""
        self.scale, self._streak = float(state["scale"]), int(state["_growth_tracker"])
        self._growth, self._backoff = float(state["growth_factor"]), float(state["backoff_factor"])
        self._interval = int(state["growth_interval"])


class Zero:
    """One model and its optimizer under DeepSpeed. All workers must call every method, in the same order.

    Args:
        engine: what `deepspeed.initialize` returned. It computes in fp32; a lower precision comes by autocast inside
            the module, and `scale` is its loss scale.
        optimizer: torch's, which DeepSpeed steps on flat shares of the parameters.
        groups: the optimizer's parameters, group by group, as they were before DeepSpeed put the shares there.
    """

    def __init__(
        self, engine: Any, optimizer: torch.optim.Optimizer, groups: Sequence[Sequence[nn.Parameter]],
        scale: LossScale | None,
    ) -> None:  # fmt: skip
        self.engine, self._optimizer, self._scale = engine, optimizer, scale
        self._groups = [list(group) for group in groups]
        self._keeps = dist.get_rank() == 0
        self.sharded_weights: bool = engine.zero_optimization_stage() == 3
        self._last_share = True

    @property
    def _shares(self) -> list[torch.Tensor]:
        """This worker's flat shares of the fp32 parameters, which the optimizer steps."""
        zero = self.engine.optimizer
        return list(zero.fp32_partitioned_groups_flat if self.sharded_weights else zero.single_partition_of_fp32_groups)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Inside, gradients are added up, and no step follows."""
        self._last_share = False
        try:
            yield
        finally:
            self._last_share = True

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of the loss, averaged over the workers."""
        if self._scale is not None:
            # DeepSpeed multiplies the loss by it, divides the gradients before the step, and sees the overflow.
            self.engine.optimizer.override_loss_scale(self._scale.scale)
        self.engine.set_gradient_accumulation_boundary(self._last_share)
        # Not divided by the number of micro-batches: the loop has weighted each of them.
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self) -> bool:
        """Clip, and one optimizer step; False where fp16 overflowed and the step was left out."""
        self.engine.step()
        taken = not self.engine.optimizer.overflow
        if self._scale is not None:
            self._scale.update(overflow=not taken)
        return taken

    def model_state(self) -> dict[str, torch.Tensor]:
        """The module's whole `state_dict`; with stage 3 on the main worker only, in main memory."""
        state: dict[str, torch.Tensor] = self.engine.module.state_dict()
        if not self.sharded_weights:
            return state
        parameters = dict(self.engine.module.named_parameters(remove_duplicate=False))
        whole = {}
        for name, value in state.items():
            # One at a time: there may be no room for all of them beside each other.
            with _gathered(parameters.get(name)):
                if self._keeps:
                    whole[name] = parameters.get(name, value).detach().to("cpu", copy=True)
        return whole

    def load_model(self, state: Mapping[str, torch.Tensor]) -> None:
        """Set the module from a whole state; raises RuntimeError where it is another module's."""
        module: nn.Module = self.engine.module
        if self.sharded_weights:
            self._load_sharded(module, state)
        else:
            module.load_state_dict(state)
        # The shares that the optimizer steps are copies.
        self.engine.optimizer.refresh_fp32_params()

    def _load_sharded(self, module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        parameters = dict(module.named_parameters(remove_duplicate=False))
        own = module.state_dict()
        shapes = {name: getattr(parameters.get(name), "ds_shape", value.shape) for name, value in own.items()}
        other = [name for name in {**shapes, **state} if name not in state or shapes.get(name) != state[name].shape]
        if other:
            raise RuntimeError(f"the model and the saved state differ in {', '.join(other)}")
        with torch.no_grad():
            for name, value in own.items():
                with _gathered(parameters.get(name), changed=True):
                    parameters.get(name, value).data.copy_(state[name])

    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's whole state, as torch's `state_dict` has it, in main memory; of use on the main worker only.

        Each parameter's tensors have the parameter's shape.
        """
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link_state()
        sample: dict[str, torch.Tensor] = next(iter(self._optimizer.state.values()), {})
        state: dict[int, dict[str, Any]] = {}
        for place, parameter in enumerate(parameter for group in self._groups for parameter in group):
            entry: dict[str, Any] = {}
            for name, value in sample.items():
                whole = value if value.ndim == 0 else safe_get_full_optimizer_state(parameter, name)
                if self._keeps:
                    entry[name] = whole.detach().to("cpu", copy=True)
            if entry:
                state[place] = entry
        return {"state": state, "param_groups": self._group_settings()}

    def _group_settings(self) -> list[dict[str, Any]]:
        places, settings = iter(range(sum(map(len, self._groups)))), []
        for group, now in zip(self._groups, self._optimizer.param_groups, strict=True):
            kept = {name: value for name, value in now.items() if name != "params"}
            settings.append(kept | {"params": [next(places) for _ in group]})
        return settings

    def load_optimizer(self, saved: Mapping[str, Any]) -> None:
        """Set the optimizer from a whole state; raises ValueError where it is another optimizer's."""
        sizes = [len(group["params"]) for group in saved["param_groups"]]
        if sizes != [len(group) for group in self._groups]:
            raise ValueError(f"the saved optimizer has groups of {sizes} parameters")
        for now, before in zip(self._optimizer.param_groups, saved["param_groups"], strict=True):
            now.update({name: value for name, value in before.items() if name != "params"})
        self._optimizer.state.clear()
        sample: dict[str, torch.Tensor] = next(iter(saved["state"].values()), {})
        for share in self._shares if sample else []:
            self._optimizer.state[share] = {
                # The count of steps of a fused optimizer lies beside its parameters.
                name: value.to(share.device, torch.float32, copy=True) if value.ndim == 0 else torch.zeros_like(share)
                for name, value in sample.items()
            }  # fmt: skip
        self._link_state()
        places = [place for group in saved["param_groups"] for place in group["params"]]
        parameters = [parameter for group in self._groups for parameter in group]
        for place, parameter in zip(places, parameters, strict=True):
            for name, value in saved["state"].get(place, {}).items():
                if value.ndim > 0:
                    self._set_share(parameter, name, value)

    def _link_state(self) -> None:
        """Let DeepSpeed find the part of the state again that belongs to each parameter.

        It looks after the step of the first group alone, when the others have no state yet, and never again.
        """
        if not self.sharded_weights and self._optimizer.state:
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _set_share(self, parameter: nn.Parameter, name: str, value: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if not self.sharded_weights:
            safe_set_full_optimizer_state(parameter, value, name)
            return
        # DeepSpeed's own way to set the whole fails where the workers' shares are padded.
        size: int = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        padded = value.new_zeros(size * dist.get_world_size())
        padded[: value.numel()] = value.flatten()
        safe_set_local_optimizer_state(parameter, padded.narrow(0, size * dist.get_rank(), size), name)

    def close(self) -> None:
        """Take DeepSpeed's hooks off the module."""
        self.engine.destroy()


@contextmanager
def _gathered(parameter: nn.Parameter | None, *, changed: bool = False) -> Iterator[None]:
    """Inside, a parameter of stage 3 is whole on every worker. `changed`: the main worker's value is shared out again.

    A buffer (None) is whole anyway.
    """
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([parameter] if parameter is not None else [], modifier_rank=0 if changed else None):
        yield
