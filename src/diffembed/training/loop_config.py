"""The settings of the training loop."""

from dataclasses import dataclass

from diffembed.errors import ConfigError
from diffembed.training.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How long to train, and how often to write things down."""

    num_steps: int
    """Optimizer steps."""
    checkpoint_every_s: float = 300.0
    """Seconds between checkpoints; one is always written at the end."""
    checkpoint_every_steps: int | None = None
    """Also every so many steps, if given."""
    log_every: int = 1
    """Steps between rows of metrics.jsonl."""
    tensorboard: bool = False
    """Write the rows to event files in `tensorboard` too, for those who watch with TensorBoard."""
    seed: int = 0
    shard: bool = False
    """Spread weights, gradients and optimizer state over the ranks (FSDP2); of no effect in a single process."""
    divergence_factor: float | None = None
    """Stop when the loss stays above its running median times this for `divergence_steps` steps; None: never."""
    divergence_steps: int = 20

    def __post_init__(self) -> None:
        if self.checkpoint_every_steps is not None and self.checkpoint_every_steps < 1:
            raise ConfigError(
                f"checkpoint_every_steps must be at least 1, got {self.checkpoint_every_steps}",
                hint="null: by time",
            )
        if not self.checkpoint_every_s > 0:
            raise ConfigError(
                f"checkpoint_every_s must be positive, got {self.checkpoint_every_s}", hint="300 is every five minutes"
            )
        if self.divergence_factor is not None and not self.divergence_factor > 1 or self.divergence_steps < 1:
            raise ConfigError(
                f"divergence_factor must be above 1 and divergence_steps at least 1, got {self.divergence_factor} and "
                f"{self.divergence_steps}",
                hint="2 and 20 catch a run that is lost; null: never stop",
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be in 0 to 2**32 - 1, got {self.seed}", hint="any small number will do")
        if self.num_steps < 1 or self.log_every < 1:
            raise ConfigError(
                f"num_steps and log_every must be at least 1, got {self.num_steps} and {self.log_every}",
                hint="loop.log_every=1 logs every step",
            )


def check_sharding(loop: LoopConfig, optimizer: OptimizerConfig) -> None:
    """Refuse what cannot work on weights that are spread over ranks.

    Raises:
        ConfigError: Muon with `shard`: it needs whole matrices.
    """
    if loop.shard and optimizer.muon:
        raise ConfigError(
            "muon needs whole matrices, shard cuts them", hint="set optimizer.muon=false or loop.shard=false"
        )
