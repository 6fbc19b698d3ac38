"""Multi-codebook vector quantisation: an embedding as the sum of M codebook entries.

An additive quantiser (Babenko and Lempitsky, CVPR 2014): x ~ sum_m C[m, code_m] with
256 entries a codebook, so M bytes a frame. The codebooks are those of faiss's residual
quantiser; encoding searches with a beam, which keeps several partial sums where a plain
residual quantiser would commit itself to one; docs/decisions.md says what that was
compared with. It works on standardised dimensions, as the student's loss does. Encoding
and decoding are done by torch on whatever device holds the frames, or the codes.
"""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save

from espnet_mtkd.errors import ConfigError, TargetStoreError
from espnet_mtkd.objective.losses import CODEBOOK_SIZE
from espnet_mtkd.objective.normalize import MIN_STD
from espnet_mtkd.targets.beam import BeamSearch

MIN_CODEBOOKS, MAX_CODEBOOKS = 4, 32
TRAINING_BEAM = 2  # with fewer iterations than faiss has: as good, a third of the time
ITERATIONS = 10  # of k-means, for each codebook
HELD_OUT = 0.1  # of the sample, to measure on
MIN_FRAMES = 512  # of a sample


class Codebooks:
    """A trained quantiser of one target.

    Args:
        entries_MKE: (M, 256, E) fp32, of standardised dimensions.
        mean_E, std_E: (E,) fp32, of the target.
    """

    def __init__(self, entries_MKE, mean_E, std_E):
        self.entries_MKE = entries_MKE
        self.mean_E, self.std_E = mean_E, std_E
        self._search = None  # with mean and std, all on the device of the last frames
        self._table = None

    @property
    def num_codebooks(self) -> int:
        """M, bytes a frame."""
        return len(self.entries_MKE)

    @property
    def dim(self) -> int:
        """E."""
        return self.entries_MKE.size(2)

    def encode(self, x_NE: torch.Tensor) -> torch.Tensor:
        """Embeddings (N, E) -> codes (N, M), uint8, on the embeddings' device."""
        device = x_NE.device
        if self._search is None or self._search[1].device != device:
            search = BeamSearch(self.entries_MKE.to(device))
            self._search = search, self.mean_E.to(device), self.std_E.to(device)
        search, mean_E, std_E = self._search
        return search((x_NE.float() - mean_E) / std_E)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (..., M), uint8 -> embeddings (..., E), fp32, on the codes' device."""
        if self._table is None or self._table.device != codes.device:
            # The mean goes into the first codebook, the scale into all: one sum is all.
            table = self.entries_MKE * self.std_E
            table[0] += self.mean_E
            self._table = table.reshape(-1, self.dim).to(codes.device)
        offsets = CODEBOOK_SIZE * torch.arange(codes.size(-1), device=codes.device)
        index = (codes.int() + offsets.int()).flatten(0, -2)
        x_NE = F.embedding_bag(index, self._table, mode="sum")
        return x_NE.view(*codes.shape[:-1], self.dim)

    def measure(self, x_NE: torch.Tensor) -> dict[str, float]:
        """What coding does to frames (N, E), in standardised dimensions.

        Returns:
            `error`, squared error relative to the variance, and `cosine`, the mean
            similarity of a frame and its reconstruction.
        """
        y = self.decode(self.encode(x_NE))
        y = (y - self.mean_E) / self.std_E
        x = (x_NE.float() - self.mean_E) / self.std_E
        return {
            "error": float((x - y).square().sum() / x.square().sum()),
            "cosine": float(F.cosine_similarity(x, y, dim=1).mean()),
        }


def train_codebooks(
    x_NE: torch.Tensor, num_codebooks: int, seed: int = 0
) -> tuple[Codebooks, dict[str, float]]:
    """Train the codebooks of one target.

    Args:
        x_NE: (N, E) embeddings of a sample of the data.
        num_codebooks: M, 4 to 32.
        seed: of the choice of held-out frames.

    Returns:
        The codebooks, and `Codebooks.measure` on held-out frames.

    Raises:
        ConfigError: too few frames, or a number of codebooks out of range.
    """
    check_num_codebooks(num_codebooks)
    if len(x_NE) < MIN_FRAMES:
        raise ConfigError(
            f"a sample of {len(x_NE)} frames is too small to train codebooks on: "
            f"expected at least {MIN_FRAMES}; use --form fp16 for so little audio"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x_NE), generator=generator)
    num_held = int(HELD_OUT * len(order))
    held, x = x_NE[order[:num_held]].float(), x_NE[order[num_held:]].float()
    mean, std = x.mean(0), x.std(0).clamp(min=MIN_STD)
    entries = train_entries((x - mean) / std, num_codebooks)
    books = Codebooks(entries, mean, std)
    return books, books.measure(held)


def check_num_codebooks(num_codebooks: int) -> None:
    """Raise a ConfigError where `num_codebooks` is out of range."""
    if not MIN_CODEBOOKS <= num_codebooks <= MAX_CODEBOOKS:
        raise ConfigError(
            f"--num_codebooks: expected {MIN_CODEBOOKS} to {MAX_CODEBOOKS}, found "
            f"{num_codebooks}"
        )


def _import_faiss():
    logging.getLogger("faiss").setLevel(logging.WARNING)
    try:
        import faiss
    except ImportError as e:
        raise ConfigError(
            f"faiss is not importable ({e}): run tools/setup.sh, `pip install "
            "faiss-cpu`, or use --form fp16"
        ) from e
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def train_entries(x_NE: torch.Tensor, num_codebooks: int) -> torch.Tensor:
    """Entries (M, K, E) of a residual quantiser of standardised frames (N, E), fp32."""
    faiss = _import_faiss()
    quantizer = faiss.ResidualQuantizer(x_NE.shape[1], num_codebooks, 8)
    quantizer.train_type = faiss.ResidualQuantizer.Train_default
    quantizer.max_beam_size, quantizer.cp.niter = TRAINING_BEAM, ITERATIONS
    quantizer.cp.min_points_per_centroid = 1  # small samples: no warning on stderr
    quantizer.train(x_NE.numpy())
    entries = faiss.vector_to_array(quantizer.codebooks)
    return torch.from_numpy(entries).view(num_codebooks, CODEBOOK_SIZE, -1)


def dump_codebooks(books: dict[str, Codebooks], metadata: dict[str, str]) -> bytes:
    """The bytes of a codebook file.

    Args:
        books: target name -> codebooks.
        metadata: strings to stand in the header.
    """
    tensors = {}
    for name, book in books.items():
        tensors[f"{name}.entries"] = book.entries_MKE.contiguous()
        tensors[f"{name}.mean"] = book.mean_E.contiguous()
        tensors[f"{name}.std"] = book.std_E.contiguous()
    return save(tensors, metadata)


def _check_shapes(name: str, book: Codebooks) -> None:
    """Raise a ValueError where these are no codebooks."""
    E = book.mean_E.numel()
    shapes = [tuple(x.shape) for x in (book.entries_MKE, book.mean_E, book.std_E)]
    num_codebooks = shapes[0][0] if shapes[0] else 0
    expected = [(num_codebooks, CODEBOOK_SIZE, E), (E,), (E,)]
    if E == 0 or shapes != expected or not 0 < num_codebooks <= MAX_CODEBOOKS:
        raise ValueError(f"{name}: expected shapes {expected}, found {shapes}")
    for tensor in (book.entries_MKE, book.mean_E, book.std_E):
        if tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name}: expected finite values of float32")


def read_codebooks(path: Path) -> dict[str, Codebooks]:
    """Target name -> codebooks, of a file that `dump_codebooks` made.

    Raises:
        TargetStoreError: no such file, or a damaged one.
    """
    if not path.is_file():
        raise TargetStoreError(f"{path}: no such file: run mtkd_extract (again)")
    try:
        tensors = load(path.read_bytes())
        books = {
            key.removesuffix(".entries"): Codebooks(
                *(
                    tensors[f"{key.removesuffix('.entries')}.{part}"]
                    for part in ("entries", "mean", "std")
                )
            )
            for key in tensors
            if key.endswith(".entries")
        }
        for name, book in books.items():
            _check_shapes(name, book)
        return books
    except (SafetensorError, KeyError, ValueError) as e:
        raise TargetStoreError(
            f"{path}: no codebook file, or a damaged one ({e}): remove it and extract "
            "again"
        ) from e
