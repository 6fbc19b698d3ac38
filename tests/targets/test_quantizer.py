"""Codebooks: better than plain product quantisation, the same after a round trip."""

import sys

import faiss
import pytest
import torch

from espnet_mtkd.errors import ConfigError, TargetStoreError
from espnet_mtkd.targets.beam import BeamSearch
from espnet_mtkd.targets.quantizer import (
    Codebooks,
    dump_codebooks,
    read_codebooks,
    train_codebooks,
    train_entries,
)

TENSORS = ("entries_MKE", "mean_E", "std_E")


@pytest.fixture(scope="module")
def frames():
    """Correlated 24-d vectors of very different scales, away from zero."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 24, generator=generator)
    latent = torch.randn(6000, 8, generator=generator)
    x = latent @ mixing + 0.1 * torch.randn(6000, 24, generator=generator)
    return x * torch.logspace(-2, 2, 24) + 5


@pytest.fixture(scope="module")
def trained(frames):
    return train_codebooks(frames, 4)


def test_it_beats_faiss_product_quantisation_of_the_same_size(frames, trained):
    books, quality = trained
    x = ((frames - frames.mean(0)) / frames.std(0)).numpy()
    product = faiss.ProductQuantizer(24, 4, 8)
    product.train(x[:5400])
    y = product.decode(product.compute_codes(x[5400:]))
    error = ((y - x[5400:]) ** 2).sum() / (x[5400:] ** 2).sum()
    assert quality["error"] < 0.9 * error
    assert 0.9 < quality["cosine"] <= 1


def test_encoding_is_no_worse_than_greedy_residual_search(frames, trained):
    books, _ = trained
    x = (frames[:500] - books.mean_E) / books.std_E
    residual = x.clone()
    for entries in books.entries_MKE:
        residual -= entries[torch.cdist(residual, entries).argmin(1)]
    codes = books.encode(frames[:500])
    y = (books.decode(codes) - books.mean_E) / books.std_E
    assert (x - y).square().sum() <= residual.square().sum()


def faiss_quantizer(dim: int, num: int):
    quantizer = faiss.ResidualQuantizer(dim, num, 8)
    quantizer.max_beam_size = 4
    quantizer.train_type = faiss.ResidualQuantizer.Train_default
    quantizer.cp.min_points_per_centroid = 1
    return quantizer


def standardised(x):
    return (x - x.mean(0)) / x.std(0)


@pytest.mark.parametrize("E", [20, 40, 80])
@pytest.mark.parametrize("M", [4, 8, 16])
def test_codes_are_those_of_faiss_by_its_own_codebooks(E, M):
    """But for frames with two sums that are equally near, to the last bits."""
    generator = torch.Generator().manual_seed(E + M)
    mixing = torch.randn(E // 2, E, generator=generator)
    x = torch.randn(2600, E // 2, generator=generator) @ mixing
    x = standardised(x + 0.3 * torch.randn(2600, E, generator=generator))
    entries = train_entries(x[:2000], M)
    quantizer = faiss_quantizer(E, M)
    faiss.copy_array_to_vector(entries.numpy().ravel(), quantizer.codebooks)
    quantizer.is_trained = True
    x = x[2000:]
    expected = torch.from_numpy(quantizer.compute_codes(x.numpy()))
    books = Codebooks(entries, torch.zeros(E), torch.ones(E))
    found = books.encode(x)
    assert (found == expected).all(1).float().mean() > 0.99
    errors = [(books.decode(c) - x).square().sum() for c in (found, expected)]
    assert errors[0] < 1.01 * errors[1]


def test_short_training_costs_little_of_what_faiss_reaches_with_a_beam(frames):
    x = standardised(frames)
    quantizer = faiss_quantizer(24, 4)
    quantizer.train(x[:5000].numpy())
    y = quantizer.decode(quantizer.compute_codes(x[5000:].numpy()))
    expected = (torch.from_numpy(y) - x[5000:]).square().sum()
    books, _ = train_codebooks(x[:5000], 4)
    found = (books.decode(books.encode(x[5000:])) - x[5000:]).square().sum()
    assert found < 1.2 * expected  # a sample of 20 frames an entry; of 150: less


def plain_beam_search(x_E, entries_MKE, num_beams: int = 4) -> list[int]:
    """Codes of one vector: every step tries all sums, and keeps the nearest."""
    beams = [((), torch.zeros_like(x_E))]
    for entries_KE in entries_MKE:
        tried = [
            ((*codes, k), total + entry)
            for codes, total in beams
            for k, entry in enumerate(entries_KE)
        ]
        tried.sort(key=lambda pair: float((x_E - pair[1]).square().sum()))
        beams = tried[:num_beams]
    return list(beams[0][0])


@pytest.mark.parametrize(
    "M, E, num_spanned", [(4, 1, 1), (4, 7, 7), (32, 3, 3), (5, 16, 2)]
)
def test_codes_are_those_of_a_plain_beam_search(M, E, num_spanned):
    """Also where the entries span a part of the dimensions alone."""
    generator = torch.Generator().manual_seed(M + E)
    basis = torch.linalg.qr(torch.randn(E, E, generator=generator)).Q[:, :num_spanned]
    scale = 0.8 ** torch.arange(M)[:, None, None]
    entries = scale * torch.randn(M, 256, num_spanned, generator=generator) @ basis.T
    x = 2 * torch.randn(6, E, generator=generator)
    search = BeamSearch(entries)
    assert (search.basis_ED is None) == (num_spanned == E)
    y = [0, 0]
    for x_E, found in zip(x, search(x), strict=True):
        expected = plain_beam_search(x_E.double(), entries.double())
        for i, codes in enumerate((found.tolist(), expected)):
            total = sum(entries[m, k] for m, k in enumerate(codes))
            y[i] += float((total - x_E).square().sum())
        if M < 32:  # with so many, two sums differ by less than fp32 tells apart
            assert found.tolist() == expected
    # (fp32 knows a squared distance to some 1e-7 of the vectors' squared lengths)
    assert y[0] == pytest.approx(y[1], rel=1e-2, abs=1e-6 * float(x.square().sum()))


def test_codes_do_not_depend_on_how_many_frames_come_together(frames, trained):
    books, _ = trained
    together = books.encode(frames[:700])  # more than are searched for at a time
    parts = torch.cat([books.encode(x) for x in frames[:700].split(99)])
    assert (together == parts).all(1).float().mean() > 0.99


def test_frames_far_from_all_others_are_encoded_as_well(frames, trained):
    """Whisper has some that are hundreds of times larger."""
    books, _ = trained
    x = books.mean_E + 300 * (frames[:50] - books.mean_E)
    z = (x - books.mean_E) / books.std_E
    expected = [
        plain_beam_search(z_E.double(), books.entries_MKE.double()) for z_E in z[:5]
    ]

    def decode(codes):
        return (books.decode(codes) - books.mean_E) / books.std_E

    found = (decode(books.encode(x[:5])) - z[:5]).square().sum()
    best = (decode(torch.tensor(expected, dtype=torch.uint8)) - z[:5]).square().sum()
    assert found <= best * (1 + 1e-4)


def test_without_faiss_all_but_training_goes_on(trained, frames, monkeypatch):
    books = Codebooks(*(getattr(trained[0], x) for x in TENSORS))
    expected = trained[0].encode(frames[:64])
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert torch.equal(books.encode(frames[:64]), expected)
    assert books.measure(frames[:64])["error"] < 1
    with pytest.raises(ConfigError, match="faiss is not importable .* --form fp16"):
        train_codebooks(frames, 4)


def test_decoding_is_the_sum_of_entries(trained):
    books, _ = trained
    codes = torch.randint(256, (3, 5, 4), dtype=torch.uint8)
    found = books.decode(codes)
    assert found.shape == (3, 5, 24)
    for b in range(3):
        for t in range(5):
            total = sum(books.entries_MKE[m, int(codes[b, t, m])] for m in range(4))
            expected = total * books.std_E + books.mean_E
            torch.testing.assert_close(found[b, t], expected, rtol=1e-4, atol=1e-3)


def test_a_file_holds_them_whole(trained, frames, tmp_path):
    books, _ = trained
    path = tmp_path / "codebooks.safetensors"
    path.write_bytes(dump_codebooks({"a_l1": books}, {}))
    read = read_codebooks(path)["a_l1"]
    assert torch.equal(read.encode(frames[:64]), books.encode(frames[:64]))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TargetStoreError, match="damaged"):
        read_codebooks(path)
    with pytest.raises(TargetStoreError, match="no such file"):
        read_codebooks(tmp_path / "nothing")


def test_training_twice_gives_the_same_codebooks(frames, trained):
    again, _ = train_codebooks(frames, 4)
    assert torch.equal(again.entries_MKE, trained[0].entries_MKE)


def test_no_frames_have_no_codes(trained):
    assert trained[0].encode(torch.zeros(0, 24)).shape == (0, 4)


@pytest.mark.parametrize("num", [3, 33])
def test_other_numbers_of_codebooks_are_refused(frames, num):
    with pytest.raises(ConfigError, match=f"4 to 32, found {num}"):
        train_codebooks(frames, num)


def test_a_small_sample_is_refused(frames):
    with pytest.raises(ConfigError, match="100 frames is too small .* fp16"):
        train_codebooks(frames[:100], 4)


def test_a_constant_dimension_does_no_harm(frames):
    x = frames.clone()
    x[:, 3] = 7.0
    books, _ = train_codebooks(x[:2000], 4)
    decoded = books.decode(books.encode(x[:10]))
    assert decoded.isfinite().all()
    assert (decoded[:, 3] - 7).abs().max() < 0.1
    assert isinstance(books, Codebooks)
