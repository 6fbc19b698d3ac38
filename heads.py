"""Prediction heads: from the student's encoder to each teacher's space."""

import torch
from torch import nn

EXPANSION = 4  # hidden units of an MLP head per dimension of the student


class PredictionHead(nn.Module):
    """Linear map from a student frame to the R teacher frames that lie in it.

    Args:
        student_dim: D, the encoder's output dimension.
        teacher_dim: E, the embedding dimension.
        num_per_frame: R, teacher frames per student frame.
    """

    def __init__(self, student_dim: int, teacher_dim: int, num_per_frame: int):
        super().__init__()
        self.num_per_frame = num_per_frame
        self.linear = nn.Linear(student_dim, num_per_frame * teacher_dim)

    def forward(self, h_BTD):
        """(B, T, D) -> (B, T, R, E)."""
        return self.linear(h_BTD).unflatten(-1, (self.num_per_frame, -1))


class MLPHead(nn.Module):
    """Two layers with a GELU between them, the head of UNIC (arXiv 2408.05088).

    Args:
        student_dim, teacher_dim, num_per_frame: see `PredictionHead`.
    """

    def __init__(self, student_dim: int, teacher_dim: int, num_per_frame: int):
        super().__init__()
        self.num_per_frame = num_per_frame
        self.layers = nn.Sequential(
            nn.Linear(student_dim, EXPANSION * student_dim),
            nn.GELU(),
            nn.Linear(EXPANSION * student_dim, num_per_frame * teacher_dim),
        )

    def forward(self, h_BTD):
        """(B, T, D) -> (B, T, R, E)."""
        return self.layers(h_BTD).unflatten(-1, (self.num_per_frame, -1))


HEADS = {"linear": PredictionHead, "mlp": MLPHead}


class Ladder(nn.Module):
    """The last block's output, with a projection of every other block's added to it.

    After UNIC's ladder of projectors (arXiv 2408.05088), where each teacher has an MLP
    on each block and their outputs are summed. Here the rungs are linear, D x D, and
    all teachers share them, so that they cost little beside the heads.

    Args:
        student_dim: D.
        num_blocks: of the encoder.
    """

    def __init__(self, student_dim: int, num_blocks: int):
        super().__init__()
        self.rungs = nn.ModuleList(
            nn.Linear(student_dim, student_dim) for _ in range(num_blocks - 1)
        )

    def forward(self, blocks: list[torch.Tensor]):
        """Outputs (B, T, D) of all blocks, the first one first -> (B, T, D)."""
        h_BTD = blocks[-1]
        for rung, block_BTD in zip(self.rungs, blocks[:-1], strict=True):
            h_BTD = h_BTD + rung(block_BTD)
        return h_BTD
