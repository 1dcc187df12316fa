"""litgpt Blocks of any shape, also without attention or without MLP.

A block without a part adds nothing for it: x + 0 is x, and the part's norms are gone. Which norms those are depends on
the family: before attention and MLP, after them (Gemma, OLMo 2), one shared by both (Phi, Falcon).
"""

from __future__ import annotations

from dataclasses import replace

import litgpt.model
from litgpt.config import Config
from torch import Tensor, nn

from supernet.selection import LayerShape


def build_block(config: Config, shape: LayerShape, index: int) -> litgpt.model.Block:
    """Return a freshly initialised block of this shape, on the current default device.

    Args:
        config: litgpt's Config; its sizes are replaced by those of `shape`.
        shape: of the block; no heads means no attention, no neurons no MLP.
        index: the block's place in the lists of `config` (sliding windows).
    """
    sizes = replace(
        config,
        n_embd=shape.n_embd,
        n_head=shape.n_head or 1,  # litgpt builds a part of one head or neuron, and PartialBlock drops it
        n_query_groups=shape.n_query_groups or 1,
        intermediate_size=shape.intermediate_size or 1,
        bias=shape.bias,
    )
    if shape.has_attention and shape.has_mlp:
        return litgpt.model.Block(sizes, index)
    return PartialBlock(sizes, index, shape)


class Absent(nn.Module):
    """Stands where a block has no attention or no MLP: no parameters, and a KV cache of nothing."""

    kv_cache: None = None

    def build_kv_cache(self, *args: object) -> None:
        """Return no cache: litgpt asks every block's attention for one."""
        return


class PartialBlock(litgpt.model.Block):
    """A litgpt Block that has only attention or only an MLP.

    Args:
        config: litgpt's Config of the block.
        index: as in litgpt's Block.
        shape: which part is there.
    """

    def __init__(self, config: Config, index: int, shape: LayerShape) -> None:
        super().__init__(config, index)
        self.shares_norm = config.parallel_residual and config.shared_attention_norm
        if shape.has_attention:
            self.mlp, self.post_mlp_norm = Absent(), nn.Identity()
            self.norm_2 = None if self.shares_norm else nn.Identity()
        else:
            self.attn, self.post_attention_norm = Absent(), nn.Identity()
            if not self.shares_norm:
                self.norm_1 = nn.Identity()

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None = None,
        input_pos: Tensor | None = None,
        input_pos_maxp1: int | None = None,
    ) -> Tensor:
        """Return x and what the one part adds to it, (B, T, C); the arguments are those of litgpt's Block."""
        if isinstance(self.attn, Absent):
            norm: nn.Module = self.norm_1 if self.shares_norm else self.norm_2  # type: ignore[assignment]
            return self.post_mlp_norm(self.mlp(norm(x))) + x
        attention = self.attn(self.norm_1(x), cos, sin, mask, input_pos, input_pos_maxp1)
        return self.post_attention_norm(attention) + x
