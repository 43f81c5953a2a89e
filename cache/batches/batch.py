"""A batch of tensors, as it goes to a model."""

from dataclasses import dataclass
from typing import Any

import torch

from ..common.arrays import Array


@dataclass(slots=True, eq=False)
class Batch:
    """The rows of one optimizer step that this rank computes at one micro-step: B rows, W columns.

    Every rank has as many micro-batches as the others, or they would wait for each other's gradients forever. Where a
    step has too few rows for all ranks, some get a dummy batch: its tensors hold one row of another rank, but `rows` is
    empty and `len(batch)` is 0, so that `loss_weight` is 0.

    A packed batch holds its B rows end to end as one, T tokens in all: B is 1 and W is T in the shapes of tokens below,
    and `attention_mask` is None.

    Attributes:
        input_ids: (B, W) int64.
        attention_mask: (B, W) int64, 1 at tokens; None where every row is W long and no mask is needed.
        labels: by task (B,) int64 classes, (B,) float32 numbers, (B, C) float32, 1 at the classes a row has, or (B, W)
            int64 classes of tokens, -100 at those without one; None in a cache without labels.
        token_type_ids: (B, W) int64 in a cache of pairs, 1 at the second text and what closes it; None elsewhere.
        rows: (B,) row numbers in the split, ascending; (0,) in a dummy batch.
        step: number of the optimizer step in its epoch.
        step_rows: rows of that step over all ranks and micro-steps.
        targets: number of labels that a mean loss is over: B, or the tokens here that have a label, of which there may
            be none; 0 in a dummy batch.
        step_targets: the same of that step over all ranks and micro-steps.
        last: whether this is the step's last micro-step; the same on all ranks.
        real_tokens: tokens that are not padding; 0 in a dummy batch.
        position_ids: (1, T) int64, counted from 0 in each row of a packed batch; None in a padded one.
        cu_seq_lens: (B+1,) int32, row i of a packed batch is tokens cu_seq_lens[i] to cu_seq_lens[i+1]; None in a
            padded one.
        longest: tokens of the longest row of a packed batch; 0 in a padded one.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    labels: torch.Tensor | None
    token_type_ids: torch.Tensor | None
    rows: Array
    step: int
    step_rows: int
    targets: int
    step_targets: int
    last: bool
    real_tokens: int
    position_ids: torch.Tensor | None = None
    cu_seq_lens: torch.Tensor | None = None
    longest: int = 0

    def __len__(self) -> int:
        """Rows that count: B, or 0 in a dummy batch."""
        return len(self.rows)

    @property
    def loss_weight(self) -> float:
        """What to multiply a mean loss by, so that micro-batches and ranks add up to the mean over the step: targets /
        step_targets, which is B / step_rows for one label per row. 0 where nothing here has a label; the mean loss is
        then not a number.
        """
        return self.targets / max(self.step_targets, 1)

    @property
    def padded_tokens(self) -> int:
        """B x W, computed even in a dummy batch; T in a packed one."""
        return self.input_ids.numel()

    def model_inputs(self) -> dict[str, Any]:
        """Keyword arguments for a transformers model: input_ids, labels where the cache has them, attention_mask where
        one is needed, and token_type_ids in a cache of pairs. Of a packed batch also position_ids and what
        transformers' flash attention takes: cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k."""
        inputs = {
            "input_ids": self.input_ids,
            "labels": self.labels,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
            "position_ids": self.position_ids,
            "cu_seq_lens_q": self.cu_seq_lens,
            "cu_seq_lens_k": self.cu_seq_lens,
            "max_length_q": self.longest or None,
            "max_length_k": self.longest or None,
        }
        return {name: value for name, value in inputs.items() if value is not None}
