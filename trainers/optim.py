"""Optimizers and learning-rate schedules, stepped once per optimizer step."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from tuneyard.trainers.config.training import OptimizerConfig, ScheduleConfig
from tuneyard.trainers.quick_optimizers import SGD, AdamW


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) or SGD over the model's trainable parameters.

    Weight decay applies to matrices and kernels alone: parameters of fewer than two dimensions (norms and biases) get
    none, as in the usual image recipes.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # One fused kernel for all parameters instead of several small ones for each.
    if config.name == "adamw":
        return AdamW(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), fused=True)
    return SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0, fused=True
    )


def build_schedule(
    config: ScheduleConfig, optimizer: torch.optim.Optimizer, *, lr: float, epochs: int, steps_per_epoch: int
) -> LRScheduler:
    """The schedule over `epochs * steps_per_epoch` optimizer steps.

    - constant: linear warm-up over `warmup_epochs`, then the peak.
    - cosine: linear warm-up, then half a cosine down to `final_ratio` of the peak (arXiv 1608.03983).
    - onecycle: from peak/25 up over `warmup_epochs` (30 % of the run if 0), then down to `final_ratio`, momentum the
      other way round (Smith, arXiv 1708.07120).
    """
    total = epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if config.name == "onecycle":
        rise = warmup / total if warmup else 0.3
        floor = max(config.final_ratio, 1e-4)
        return OneCycleLR(
            optimizer,
            max_lr=lr,
            total_steps=total + 1,
            pct_start=rise,
            # Otherwise SGD that was asked to go without momentum would get 0.95.
            cycle_momentum=optimizer.param_groups[0].get("momentum") != 0.0,
            div_factor=25.0,
            final_div_factor=1 / (25 * floor),
        )

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if config.name == "constant":
            return 1.0
        done = min((step - warmup) / max(total - warmup, 1), 1.0)
        return config.final_ratio + (1 - config.final_ratio) * 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)
