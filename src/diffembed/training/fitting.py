"""A step of fine-tuning: its batch as the backbone reads it, and the loss of the vectors."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffembed.backbone.transformer import Backbone
from diffembed.data.batches import Batch, ExampleBatches
from diffembed.embedder import Embedder
from diffembed.embedder.model import Model
from diffembed.errors import ConfigError
from diffembed.readout.spec import Readout
from diffembed.training.distributed import Ranks
from diffembed.training.finetune_config import FinetuneConfig
from diffembed.training.gradcache import loss_in_parts, read_out
from diffembed.training.loop import PartialLoss
from diffembed.training.losses import batch_loss
from diffembed.training.prompts import Prompts
from diffembed.training.validation import Role

# More tokens than any chunk has.
LARGEST = 2**40


class Fitting:
    """A backbone in training on batches of examples."""

    def __init__(
        self,
        backbone: Backbone,
        prompts: Prompts,
        batches: ExampleBatches,
        config: FinetuneConfig,
        readout: Readout,
        ranks: Ranks,
    ) -> None:
        self.backbone, self.prompts, self.batches = backbone, prompts, batches
        self.config, self.readout, self.ranks = config, readout, ranks
        self.teacher = _load_teacher(config, prompts.model, ranks)

    def micro_batches(self, step: int, generator: torch.Generator) -> Iterator[PartialLoss]:
        """This rank's parts of the loss of a step."""
        batch = self.batches[step - 1]
        texts = self.prompts.apply(batch, generator)
        loss_of = partial(
            batch_loss,
            texts=texts,
            batch=batch,
            config=self.config.loss,
            readout=self.readout,
            share_done=(step - 1) / self.config.loop.num_steps,
            teacher_VE=self._taught(batch),
        )
        return loss_in_parts(
            self.backbone,
            texts,
            loss_of,
            chunk_tokens=self.config.chunk_tokens,
            recompute=self.config.recompute,
            generator=generator,
            ranks=self.ranks,
            device=self.ranks.device,
        )

    def describe(self, step: int) -> dict[str, Any]:
        """The texts of a step's batch."""
        batch = self.batches[step - 1]
        return {"queries": batch.queries, "passages": batch.passages, "negatives": batch.negatives}

    def encode(self, texts: Sequence[str], role: Role) -> Tensor:
        """Unit vectors with the weights of the moment, for validation."""
        self.backbone.eval()
        rows = read_out(
            self.backbone,
            self.prompts.lay_out(texts, role),
            # Spread weights are fetched by all ranks together: one pass for each call.
            chunk_tokens=LARGEST if self.config.loop.shard else self.config.chunk_tokens,
            device=self.ranks.device,
        )
        self.backbone.train()
        return torch.nn.functional.normalize(rows, dim=-1)

    def _taught(self, batch: Batch) -> Tensor | None:
        if self.teacher is None:
            return None
        # Each rank asks the teacher about its own texts.
        sides = [("query", text) for text in batch.queries] + [("document", text) for text in batch.candidates]
        numbers = range(len(sides))
        rows = []
        for number in self.ranks.share(numbers):
            role, text = sides[number]
            vectors = self.teacher.embed([text], role, dims=self.config.loss.teacher_dims).vectors  # type: ignore[arg-type]
            rows.append(torch.from_numpy(vectors).to(self.ranks.device))
        rows_VE = self.ranks.gather_rows(rows)
        order = [number for rank in range(self.ranks.world) for number in numbers[rank :: self.ranks.world]]
        return torch.empty_like(rows_VE).index_copy_(0, torch.tensor(order, device=rows_VE.device), rows_VE)


def _load_teacher(config: FinetuneConfig, model: Model, ranks: Ranks) -> Embedder | None:
    if config.loss.teacher is None:
        return None
    teacher = Embedder.load(config.loss.teacher, device=ranks.device)
    dims = config.loss.teacher_dims or teacher.dims
    if dims > min(teacher.dims, model.backbone.config.width):
        raise ConfigError(
            f"the teacher's {dims} dims are to be learnt, it has {teacher.dims} and the model "
            f"{model.backbone.config.width}",
            hint="set loss.teacher_dims to no more than both: the first dims of a teacher trained for that will do",
        )
    return teacher
