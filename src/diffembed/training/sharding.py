"""Weights, gradients and optimizer state spread over the ranks (FSDP2): for models that one GPU cannot train."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from diffembed.training.distributed import Ranks

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


def shard(module: nn.Module, ranks: Ranks) -> None:
    """Spread a backbone's parameters over the ranks, in place: each keeps its rows of each, as fp32 masters.

    A layer's weights come together, in the dtype they had before, when the layer runs, and leave when it is done. All
    ranks must therefore run the same number of passes. Gradients are *summed* in fp32: the loss is over the whole
    batch and each rank goes back through its own part of it (FSDP's default would be the mean).

    Args:
        module: A `Backbone`; its parameters have one dtype, or are frozen.
        ranks: At least two.
    """
    # Imported here: a single process does without torch's distributed tensors (half a second).
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    policy = MixedPrecisionPolicy(param_dtype=next(module.parameters()).dtype, reduce_dtype=torch.float32)
    layers: nn.ModuleList = module.layers  # type: ignore[assignment]
    for layer in layers:
        _sum(fully_shard(layer.float(), mesh=mesh, mp_policy=policy))
    for rest in module.children():
        if rest is not layers:
            rest.float()
    _sum(fully_shard(module, mesh=mesh, mp_policy=policy))


def _sum(module: "FSDPModule") -> None:
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)  # a plain sum, which every backend knows


def whole_weights(
    module: nn.Module, dtype: torch.dtype, ranks: Ranks, is_wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, Tensor]:
    """Weights by name, put together on the main rank's CPU in `dtype`; the others help and get nothing."""
    found = {}
    for name, tensor in module.state_dict().items():
        if not is_wanted(name):
            continue
        whole = tensor.full_tensor() if is_sharded(tensor) else tensor
        if ranks.is_main:
            found[name] = whole.detach().to("cpu", dtype)
    return found


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is spread over ranks."""
    return hasattr(tensor, "to_local")


def own_rows(tensor: Tensor) -> tuple[int, Tensor]:
    """This rank's part of a spread tensor: its first row, and the rows."""
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    each = -(-len(tensor) // mesh.size())  # as torch.chunk cuts
    return min(len(tensor), mesh.get_local_rank() * each), tensor.to_local()  # type: ignore[attr-defined]


def spread_like(rows: Tensor, like: Tensor) -> Tensor:
    """Make this rank's rows a part of a tensor that is spread like another one."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        rows.to(like.device),
        like.device_mesh,  # type: ignore[attr-defined]
        like.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
