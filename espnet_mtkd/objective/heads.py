"""Prediction heads: from the student's encoder to each teacher's space."""

from torch import nn


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
