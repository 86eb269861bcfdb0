"""Optimiser, learning-rate schedule and fp32 master weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffembed.errors import CheckpointError, ConfigError
from diffembed.training.checkpoint import SavedTensors
from diffembed.training.sharding import is_sharded, own_rows, spread_like

# The one state of AdamW's that has not the shape of its parameter.
COUNT_KEY = "step"


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """How weights move."""

    peak_lr: float
    """Learning rate after warm-up; per optimizer step."""
    warmup_steps: int
    decay_share: float = 0.3
    """Part of the run, at its end, over which the rate falls in a line towards 0 (WSD: arXiv:2404.06395)."""
    weight_decay: float = 0.1
    """Decoupled; for matrices only, never for norms."""
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    muon: bool = False
    """Muon for the matrices inside the layers (torch.optim.Muon, its rate matched to AdamW's); AdamW for the rest."""

    def __post_init__(self) -> None:
        if not self.peak_lr > 0:
            raise ConfigError(f"peak_lr must be positive, got {self.peak_lr}", hint="1e-4 to 3e-3 is usual")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), got {getattr(self, name)}", hint="0.9 and 0.95 are usual")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay must not be negative, got {self.weight_decay}", hint="0.1 is usual")
        if not 0 <= self.decay_share <= 1:
            raise ConfigError(f"decay_share must be in [0, 1], got {self.decay_share}", hint="0 keeps the rate")
        if self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps must not be negative, got {self.warmup_steps}", hint="0 is no warm-up")
        if not self.clip_norm > 0:
            raise ConfigError(f"clip_norm must be positive, got {self.clip_norm}", hint="1.0 is usual")

    def rate(self, step: int, num_steps: int) -> float:
        """Learning rate of step `step` (from 1) of `num_steps`."""
        warmup = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        decay_steps = self.decay_share * num_steps
        decay = min(1.0, (num_steps - step + 1) / decay_steps) if decay_steps else 1.0
        return self.peak_lr * min(warmup, decay)


class MasterOptimizer:
    """Steps fp32 copies of the weights, and writes them back in the weights' own dtype.

    bf16 weights alone would lose most updates: a step of 1e-3 of a weight is below bf16's precision.
    """

    def __init__(self, module: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        self.weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        # Weights that are fp32 are their own masters.
        self.masters = {name: p.detach().float() for name, p in self.weights.items()}
        by_muon = {name for name, p in self.masters.items() if config.muon and p.dim() == 2 and "layers." in name}
        decayed = [p for name, p in self.masters.items() if p.dim() > 1 and name not in by_muon]
        plain = [p for p in self.masters.values() if p.dim() <= 1]
        betas = (config.beta1, config.beta2)
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [group for group in groups if group["params"]], lr=config.peak_lr, betas=betas, fused=True
            )
        ]
        if by_muon:
            matrices = [p for name, p in self.masters.items() if name in by_muon]
            self.optimizers.append(
                torch.optim.Muon(
                    matrices,
                    lr=config.peak_lr,
                    weight_decay=config.weight_decay,
                    adjust_lr_fn="match_rms_adamw",  # Moonlight, arXiv:2502.16982
                )
            )

    @torch.no_grad()
    def accumulate(self) -> None:
        """Add the gradients of the weights to those of the masters, in fp32, and clear them."""
        for name, weight in self.weights.items():
            if weight.grad is None:
                continue
            master = self.masters[name]
            if master.grad is None:
                master.grad = weight.grad.float()
            else:
                master.grad += weight.grad
            weight.grad = None

    def gradients(self) -> list[Tensor]:
        """The accumulated gradients, fp32, zeros where there was none; in an order that all ranks share."""
        for master in self.masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return [master.grad for master in self.masters.values() if master.grad is not None]

    @torch.no_grad()
    def clip(self) -> float:
        """Scale the accumulated gradient down to `clip_norm`, and return its norm before that."""
        self.gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.masters.values(), self.config.clip_norm)
        return float(norm.full_tensor() if is_sharded(norm) else norm)  # type: ignore[attr-defined]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the masters by their gradients at learning rate `rate`, and write the weights back."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.write_back()

    def is_finite(self) -> bool:
        """Whether every master weight that this rank holds is a finite number."""
        own = (own_rows(master)[1] if is_sharded(master) else master for master in self.masters.values())
        return all(bool(each.isfinite().all()) for each in own)

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the master weights into the module."""
        for name, weight in self.weights.items():
            self.masters[name].grad = None
            if weight.dtype != torch.float32:
                weight.copy_(self.masters[name])

    def state(self) -> dict[str, Tensor]:
        """All tensors that a resumed run needs, by name."""
        tensors = {f"master.{name}": tensor for name, tensor in self.masters.items()}
        for name, key, value in self._slots():
            tensors[f"{key}.{name}"] = value
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put saved tensors back, wherever they were saved from.

        Raises:
            CheckpointError: They belong to other weights.
        """
        slots: dict[str, list[str]] = {name: [] for name in self.masters}
        for full_name in tensors:
            key, _, name = full_name.partition(".")
            if name not in slots:
                raise CheckpointError(
                    f"the checkpoint holds {full_name}, which this model does not have",
                    hint="resume with the code and the settings that the run was begun with",
                )
            slots[name].append(key)
        lacking = [name for name, keys in slots.items() if "master" not in keys]
        if lacking:
            raise CheckpointError(
                f"the checkpoint lacks the weight {lacking[0]}", hint="resume from another checkpoint"
            )
        names = {id(master): name for name, master in self.masters.items()}
        for optimizer in self.optimizers:
            for parameter in _parameters(optimizer):
                name = names[id(parameter)]
                parameter.copy_(_read(tensors, "master", name, parameter))
                optimizer.state[parameter] = {
                    key: _read(tensors, key, name, parameter) for key in slots[name] if key != "master"
                }
        self.write_back()

    def _slots(self) -> Iterable[tuple[str, str, Tensor]]:
        names = {id(tensor): name for name, tensor in self.masters.items()}
        for optimizer in self.optimizers:
            for parameter in _parameters(optimizer):
                for key, value in optimizer.state[parameter].items():
                    yield names[id(parameter)], key, value


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _read(tensors: Mapping[str, Tensor], key: str, name: str, parameter: Tensor) -> Tensor:
    """A saved tensor, where and as its parameter is; of a spread one this rank's rows alone."""
    full_name = f"{key}.{name}"
    if not is_sharded(parameter) or key == COUNT_KEY:
        return tensors[full_name].to(parameter.device, copy=True)
    start, rows = own_rows(parameter)
    stop = start + len(rows)
    own = tensors.rows(full_name, start, stop) if isinstance(tensors, SavedTensors) else tensors[full_name][start:stop]
    return spread_like(own, parameter)
