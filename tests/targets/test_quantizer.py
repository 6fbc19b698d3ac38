"""Codebooks: better than plain product quantisation, the same after a round trip."""

import numpy as np
import pytest
import torch

from espnet_mtkd.errors import ConfigError, TargetStoreError
from espnet_mtkd.targets.quantizer import (
    Codebooks,
    dump_codebooks,
    read_codebooks,
    train_codebooks,
)


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
    import faiss

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
    codes = torch.from_numpy(books.encode(frames[:500]))
    y = (books.decode(codes) - books.mean_E) / books.std_E
    assert (x - y).square().sum() <= residual.square().sum()


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
    np.testing.assert_array_equal(read.encode(frames[:64]), books.encode(frames[:64]))
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
    decoded = books.decode(torch.from_numpy(books.encode(x[:10])))
    assert decoded.isfinite().all()
    assert (decoded[:, 3] - 7).abs().max() < 0.1
    assert isinstance(books, Codebooks)
