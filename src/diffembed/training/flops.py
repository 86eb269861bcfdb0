"""Floating-point operations of a training step, for the share of the machine's matrix rate that it reaches."""

from dataclasses import dataclass

from torch import nn

# What is not multiplied with every token: the embedding table is looked up, a head sees the scored positions alone.
TABLES = ("embed_tokens", "lm_head")


@dataclass(frozen=True, slots=True)
class MatrixFlops:
    """Operations in products with matrices of weights, forward and back; a multiplication and its addition are two.

    A matrix costs a token 2 operations per weight forward, 2 for the gradient in what came in, and 2 for its own
    gradient if it is trained: 6 x parameters where all are, 4 x where the base is frozen (LoRA). Source: Kaplan et al.
    2020, arXiv:2001.08361, section 2.1; as model FLOPs utilisation PaLM, arXiv:2204.02311, appendix B.

    Not counted: the products of attention scores, which grow with the length (PaLM counts them), and what is computed
    twice to save memory. So the share is that of useful work, and a lower bound at long contexts.
    """

    per_token: int
    per_scored: int
    """Of a position whose token is predicted: the vocabulary head, always trained."""

    @classmethod
    def of(cls, module: nn.Module) -> "MatrixFlops":
        """Count a backbone's, with or without adapters on it."""
        per_token, tables = 0, dict[str, int]()
        for name, weight in module.named_parameters():
            table = next((each for each in TABLES if each in name), None)
            if table is not None:
                tables[table] = weight.numel()
            elif weight.dim() == 2:
                per_token += (6 if weight.requires_grad else 4) * weight.numel()
        return cls(per_token, 6 * tables.get("lm_head", tables.get("embed_tokens", 0)))

    def step(self, num_tokens: int, num_scored: float) -> float:
        """Operations of a step over so many tokens, of which so many positions were scored."""
        return self.per_token * num_tokens + self.per_scored * num_scored
