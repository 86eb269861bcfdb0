"""Token ids -> hidden states.

Shape letters: T packed tokens, D width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffembed.backbone.config import BackboneConfig
from diffembed.backbone.layers import Layer, RMSNorm, rotary_tables
from diffembed.backbone.packed import PackedBatch

# Standard deviation of fresh weights: GPT-2's, kept by Qwen and Llama.
INIT_STD = 0.02


class Backbone(nn.Module):
    """A transformer that maps packed token ids to hidden states after the final norm."""

    checkpoint_layers: bool = False
    """Keep for the way back only what enters each layer, and run the layer again there, with the same dropout."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        if config.head == "own":
            self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)

    @classmethod
    def from_weights(cls, config: BackboneConfig, weights: dict[str, Tensor]) -> "Backbone":
        """Wrap existing tensors, without drawing random ones first; names and shapes must be the parameters' own."""
        with torch.device("meta"):
            backbone = cls(config)
        backbone.load_state_dict(weights, assign=True)
        return backbone

    def set_attention_dropout(self, share: float) -> None:
        """Set this part of the attention weights to zero whenever it is in training mode."""
        for layer in self.layers:
            layer.self_attn.dropout = share  # type: ignore[union-attr]

    def open_future(self, share: float) -> None:
        """Let a token see this part of what lies ahead in training mode, drawn anew for each layer and length."""
        for layer in self.layers:
            layer.self_attn.future_share = share  # type: ignore[union-attr]

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw fresh weights. Projections into the residual stream are scaled down by its depth (GPT-2)."""
        residual_std = INIT_STD / (2 * self.config.num_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
            else:
                std = residual_std if name.endswith(("o_proj.weight", "down_proj.weight")) else INIT_STD
                parameter.normal_(0.0, std, generator=generator)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Compute the (T, D) states of a packed batch, in the dtype of the weights.

        Raises:
            ValueError: A sequence is longer than the configuration's `max_positions`.
        """
        longest = batch.groups[-1].length
        if longest > self.config.max_positions:
            raise ValueError(f"a sequence of {longest} tokens exceeds max_positions = {self.config.max_positions}")
        x_TD = self.embed_tokens(batch.ids_T)
        cos, sin = rotary_tables(self.config, longest, x_TD.device)
        cos_T1K = cos[batch.positions_T, None].to(x_TD.dtype)
        sin_T1K = sin[batch.positions_T, None].to(x_TD.dtype)
        checkpoints = self.checkpoint_layers and torch.is_grad_enabled()
        for layer in self.layers:
            inputs = (x_TD, cos_T1K, sin_T1K, batch.groups)
            x_TD = checkpoint(layer, *inputs, use_reentrant=False) if checkpoints else layer(*inputs)
        return self.norm(x_TD)

    def logits(self, states_TD: Tensor) -> Tensor:
        """Vocabulary logits (T, V) of states; which token a state predicts is `logit_shift`'s to say.

        Raises:
            ValueError: There is no head.
        """
        if self.config.head == "none":
            raise ValueError("this backbone was loaded without its vocabulary head")
        head = self.embed_tokens if self.config.head == "tied" else self.lm_head
        return states_TD @ head.weight.T

    def predicting_states(self, states_TD: Tensor, batch: PackedBatch) -> Tensor:
        """For each position the (T, D) state that predicts the token there.

        With `logit_shift` it is the state before; the first position of a sequence has none and keeps its own, as in
        Dream's code.
        """
        if not self.config.logit_shift:
            return states_TD
        return states_TD[torch.arange(batch.num_tokens, device=states_TD.device) - (batch.positions_T > 0).long()]
