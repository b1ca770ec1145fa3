"""An exponential moving average of a model's weights: what is validated, chosen and predicted with.

Averages of the iterates (Polyak and Juditsky, SIAM J. Control Optim. 30, 1992) are near what the weights would come to
if the learning rate were lowered now. So an epoch in the middle of a schedule shows what the configuration is worth,
and not the noise of its steps: early stopping can trust it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class AveragedWeights:
    """The average of a module's floating-point parameters and buffers over about the last `span_steps` steps.

    Each `update` moves it by `1 / span_steps` towards the weights. At the beginning it moves faster (by 9 / (n + 9) in
    the step n), so that the random first weights are soon forgotten. Counters and the like are taken as they are.
    """

    def __init__(self, module: nn.Module, span_steps: float) -> None:
        self._module, self._span = module, span_steps
        self.steps = 0
        self._average = {name: value.detach().clone() for name, value in self._state().items()}

    def update(self) -> None:
        """Take in the weights after one more step."""
        self.steps += 1
        pace = max(1.0 / self._span, 9.0 / (self.steps + 9.0))
        now = self._state()
        floating = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_([self._average[name] for name in floating], [now[name] for name in floating], pace)
        for name in now.keys() - set(floating):
            self._average[name].copy_(now[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the module holds the average; afterwards its own weights again."""
        now = self._state()
        own = {name: value.clone() for name, value in now.items()}
        _copy(self._average, now)
        try:
            yield
        finally:
            _copy(own, now)

    def state(self) -> dict[str, torch.Tensor]:
        """The average, by the names of the module's own state."""
        return dict(self._average)

    def load(self, state: Mapping[str, torch.Tensor], steps: int) -> None:
        """Go on from a `state` after so many steps; raises KeyError or RuntimeError where it is another module's."""
        _copy(state, self._average)
        self.steps = steps

    def _state(self) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self._module.state_dict()
        return state


@torch.no_grad()
def _copy(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
    for name, value in target.items():
        value.copy_(source[name])
