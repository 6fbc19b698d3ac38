"""What a folder of finished targets holds, what it costs, and whether it is whole."""

from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import TargetStoreError
from espnet_mtkd.targets.codebooks import CODEBOOKS, check_card, check_codebooks
from espnet_mtkd.targets.store import MANIFEST, TargetStore

ROW = "{:40} {:>9} {:>9} {:>6} {:>11} {:>9} {:>11}"
COLUMNS = "store utts hours form bytes/frame MB overhead/%".split()
# Of a fingerprint
SHOWN = ("model", "upstream", "checkpoint", "layers", "dtype", "versions")


def find_stores(out_dir: Path) -> list[TargetStore]:
    """All finished stores under `out_dir`.

    Args:
        out_dir: `<out_dir>/<teacher>/<name of the data directory>` are looked at, and
            the `<out_dir>/<name of the data directory>` of mtkd_extract_paths.

    Raises:
        TargetStoreError: there is none.
    """
    found = [p for depth in ("*", "*/*") for p in out_dir.glob(f"{depth}/{MANIFEST}")]
    stores = [TargetStore(p.parent) for p in sorted(found)]
    if not stores:
        raise TargetStoreError(f"{out_dir}: no finished targets in it")
    return stores


def describe_stores(stores: Sequence[TargetStore]) -> str:
    """A table: of each store its size, what it costs a frame, and its teacher."""
    lines = [ROW.format(*COLUMNS)]
    for store in stores:
        bytes_per_frame = sum(t.bytes_per_frame for t in store.targets)
        payload = store.num_frames * bytes_per_frame
        hours = store.num_samples / SAMPLE_RATE / 3600
        lines.append(
            ROW.format(
                str(store.folder),
                len(store),
                f"{hours:.2f}",
                str(store.fingerprint.get("form")),
                bytes_per_frame,
                f"{store.num_bytes / 1e6:.2f}",
                f"{100 * (store.num_bytes / max(1, payload) - 1):.1f}",
            )
        )
        known = (key for key in SHOWN if key in store.fingerprint)
        lines += [f"    {key}: {store.fingerprint[key]}" for key in known]
    return "\n".join(lines)


def verify_stores(stores: Sequence[TargetStore]) -> None:
    """Compare all files, codebooks among them, with what the manifests say.

    Raises:
        TargetStoreError: naming each file that differs.
    """
    problems = [line for store in stores for line in store.verify()]
    used = {}  # codebooks' file -> {store's folder: sha256 of the codebooks}
    for store in stores:
        digest = store.fingerprint.get("codebooks")
        if digest is not None:
            path = store.folder.parent / CODEBOOKS
            used.setdefault(path, {})[store.folder] = digest
    for path, digests in used.items():
        try:
            check_codebooks(path, digests)
            check_card(path)
        except TargetStoreError as e:
            problems.append(str(e))
    if problems:
        raise TargetStoreError(
            "\n  ".join([f"{len(problems)} bad file(s):", *problems])
        )
