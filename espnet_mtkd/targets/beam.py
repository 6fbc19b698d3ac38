"""Which entries of M codebooks sum to a vector: beam search that computes no residual.

Of a partial sum s and one more entry c, |x - s - c|^2 is |x - s|^2 + |c|^2 - 2 <x, c> +
2 <s, c>, and s is a sum of entries itself. So the products of x with all entries, one
matrix product, and a table of those of the entries with each other are enough: a step
adds up, for each partial sum, as many rows of the table as it has entries. Nothing in
it waits for the device.
"""

import torch
import torch.nn.functional as F

BEAM = 4  # partial sums kept
CPU_CHUNK = 256  # frames at a time: as many as a core's cache holds
GPU_CHUNK = 16_384  # a gigabyte's worth, at 32 codebooks
MIN_EIGENVALUE = 1e-9  # of a dimension that entries reach, relative to the largest
WORTHWHILE = 0.75  # of the dimensions: above it a projection costs what it saves


def chunk_size(device: torch.device) -> int:
    """Frames that are searched for at a time."""
    return CPU_CHUNK if device.type == "cpu" else GPU_CHUNK


class Beams:
    """The best partial sums of each frame so far.

    Args:
        num_frames: N.
        device: of the frames.

    Attributes:
        index_NBm: (N, B, m) rows of the flattened entries, int32; the best sum first.
        cost_NB: (N, B) squared distance to the frame, less the frame's squared norm.
    """

    def __init__(self, num_frames: int, device):
        self.index_NBm = torch.zeros(num_frames, 1, 0, dtype=torch.int32, device=device)
        self.cost_NB = torch.zeros(num_frames, 1, device=device)

    def extend(self, score_NK: torch.Tensor, table_RK: torch.Tensor) -> None:
        """Choose from one more codebook.

        Args:
            score_NK: |c|^2 - 2 <x, c> of its K entries c and each frame x.
            table_RK: 2 <c', c> of the R entries c' of the codebooks before it.
        """
        N, B, m = self.index_NBm.shape
        K = score_NK.size(1)
        cost_NBK = self.cost_NB[..., None] + score_NK[:, None]
        if m > 0:
            products = F.embedding_bag(
                self.index_NBm.flatten(0, 1), table_RK, mode="sum"
            )
            cost_NBK = cost_NBK.add_(products.view(N, B, K))
        self.cost_NB, best_NB = cost_NBK.flatten(1).topk(
            min(BEAM, B * K), largest=False
        )
        beam_NB1 = (best_NB // K)[..., None]
        chosen_NB1 = (best_NB % K + m * K).int()[..., None]
        before_NBm = self.index_NBm.gather(1, beam_NB1.expand(-1, -1, m))
        self.index_NBm = torch.cat([before_NBm, chosen_NB1], 2)


class BeamSearch:
    """Finds the codes of vectors.

    Args:
        entries_MKE: (M, K, E) fp32, on the device of the vectors.
    """

    def __init__(self, entries_MKE: torch.Tensor):
        M, self.num_entries, E = entries_MKE.shape
        flat_RE = entries_MKE.flatten(0, 1)
        self.basis_ED = spanned_dimensions(flat_RE)
        if self.basis_ED is not None:
            flat_RE = flat_RE @ self.basis_ED
        self.entries_DR = flat_RE.T.contiguous()
        self.norms_R = flat_RE.square().sum(1)
        # Of the table only the part below the diagonal's blocks is ever read.
        self.tables = []
        for m in range(M):
            start = m * self.num_entries
            own_KD = flat_RE[start : start + self.num_entries]
            self.tables.append(2 * flat_RE[:start] @ own_KD.T)

    def __call__(self, x_NE: torch.Tensor) -> torch.Tensor:
        """Codes (N, M), uint8, of vectors (N, E), fp32."""
        parts = x_NE.split(chunk_size(x_NE.device))  # of nothing one, empty
        return torch.cat([self._search(part) for part in parts])

    def _search(self, x_NE):
        x_ND = x_NE if self.basis_ED is None else x_NE @ self.basis_ED
        score_NR = torch.addmm(self.norms_R, x_ND, self.entries_DR, alpha=-2)
        beams = Beams(len(x_NE), x_NE.device)
        scores = score_NR.split(self.num_entries, dim=1)
        for score_NK, table_RK in zip(scores, self.tables, strict=True):
            beams.extend(score_NK, table_RK)
        return (beams.index_NBm[:, 0] % self.num_entries).to(torch.uint8)


def spanned_dimensions(x_NE: torch.Tensor) -> torch.Tensor | None:
    """Orthonormal basis (E, D) of the span of some vectors.

    Products of anything with these vectors are the same within it, and cost D / E.

    Returns:
        None where they span so many dimensions that nothing would be saved.
    """
    values_E, vectors_EE = torch.linalg.eigh(x_NE.T.double() @ x_NE.double())
    is_spanned_E = values_E > MIN_EIGENVALUE * values_E[-1]
    if int(is_spanned_E.sum()) > WORTHWHILE * len(values_E):
        return None
    return vectors_EE[:, is_spanned_E].to(x_NE)
