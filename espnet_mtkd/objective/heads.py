"""Prediction heads: from the student's encoder to each teacher's space."""

from collections.abc import Sequence

from torch import nn

EXPANSION = 4  # of the width of `MLPHead`, where none is given


class PredictionHead(nn.Module):
    """Linear map from a student frame to the R teacher frames that lie in it.

    What DistilHuBERT (arXiv 2110.01900) and DPHuBERT (arXiv 2305.17651) predict with.

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
    """Two linear maps with GELU between them, without a norm.

    UNIC's head (arXiv 2408.05088).

    Args:
        student_dim, teacher_dim, num_per_frame: see `PredictionHead`.
        hidden: width between the two; 0: `EXPANSION` times `student_dim`.
    """

    def __init__(
        self, student_dim: int, teacher_dim: int, num_per_frame: int, hidden: int = 0
    ):
        super().__init__()
        hidden = hidden or EXPANSION * student_dim
        self.inner = nn.Sequential(nn.Linear(student_dim, hidden), nn.GELU())
        self.outer = PredictionHead(hidden, teacher_dim, num_per_frame)

    def forward(self, h_BTD):
        """(B, T, D) -> (B, T, R, E)."""
        return self.outer(self.inner(h_BTD))


class LadderHead(nn.Module):
    """A head on the sum of a small projection of every block.

    After the ladder of UNIC (arXiv 2408.05088), which sums an MLP of every block for
    each teacher; here the blocks have a projection D -> D each and share the last map:

        p = head(sum over blocks n of P_n h_n).

    Args:
        num_blocks: that give their outputs.
        student_dim: D.
        head: what the sum is handed to.
    """

    def __init__(self, num_blocks: int, student_dim: int, head: nn.Module):
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Linear(student_dim, student_dim) for _ in range(num_blocks)
        )
        self.head = head

    def forward(self, h_BTDs: Sequence):
        """A list of (B, T, D), a block each -> (B, T, R, E)."""
        pairs = zip(self.projections, h_BTDs, strict=True)
        return self.head(sum(project(h_BTD) for project, h_BTD in pairs))


class BlockNorms(nn.Module):
    """Layer norm of the blocks' outputs, but for the last.

    Behind a block the residual stream is not normalised, and grows from block to block;
    the last one's output is: by the encoder itself.

    Args:
        numbers: of the blocks.
        last: number of the student's last block.
        student_dim: D.
    """

    def __init__(self, numbers: Sequence[int], last: int, student_dim: int):
        super().__init__()
        self.norms = nn.ModuleList(
            nn.Identity() if number == last else nn.LayerNorm(student_dim)
            for number in numbers
        )

    def forward(self, h_BTDs: Sequence) -> list:
        """A list of (B, T, D), a block each -> the same, normalised."""
        pairs = zip(self.norms, h_BTDs, strict=True)
        return [norm(h_BTD) for norm, h_BTD in pairs]
