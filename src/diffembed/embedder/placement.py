"""Where an embedder computes, and in which numbers."""

import torch

from diffembed.errors import ConfigError
from diffembed.hardware import default_device, default_dtype

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def place(device: str | torch.device | None) -> torch.device:
    """The device of that name, or the best there is; seen to work.

    Raises:
        ConfigError: It can't be used.
    """
    try:
        found = torch.device(default_device() if device is None else device)
        torch.empty(0, device=found)
        if found.type == "meta":
            raise TypeError("it holds no numbers")
    except (RuntimeError, AssertionError, TypeError) as error:  # torch without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device {device!r} cannot be used: {reason}", hint="cpu works everywhere") from None
    return found


def number_format(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of that name, or the fastest for the device.

    Raises:
        ConfigError: There is no such one.
    """
    if dtype is None:
        return default_dtype(device.type)
    found = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if found not in DTYPES.values():
        raise ConfigError(f"dtype is {dtype!r}", hint=f"allowed: {', '.join(DTYPES)}")
    return found  # type: ignore[return-value]
