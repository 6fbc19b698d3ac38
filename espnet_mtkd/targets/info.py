"""What a folder of finished targets holds, what it costs, and whether it is whole."""

from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import TargetStoreError
from espnet_mtkd.targets.store import MANIFEST, TargetStore

ROW = "{:40} {:>9} {:>9} {:>6} {:>11} {:>9} {:>11}"
COLUMNS = "store utts hours form bytes/frame MB overhead/%".split()
SHOWN = ("upstream", "checkpoint", "layers", "dtype", "versions")  # of a fingerprint


def find_stores(out_dir: Path) -> list[TargetStore]:
    """All finished stores under `out_dir`.

    Args:
        out_dir: `<out_dir>/<teacher>/<name of the data directory>` are looked at.

    Raises:
        TargetStoreError: there is none.
    """
    stores = [TargetStore(p.parent) for p in sorted(out_dir.glob(f"*/*/{MANIFEST}"))]
    if not stores:
        raise TargetStoreError(f"{out_dir}: no finished targets in it")
    return stores


def describe_stores(stores: Sequence[TargetStore]) -> str:
    """A table: of each store its size, what it costs a frame, and its teacher."""
    lines = [ROW.format(*COLUMNS)]
    for store in stores:
        bytes_per_frame = sum(t.bytes_per_frame for t in store.targets)
        payload = store.num_frames * bytes_per_frame
        hours = store.num_frames * store.targets[0].frame_shift / SAMPLE_RATE / 3600
        lines.append(
            ROW.format(
                str(store.folder),
                len(store),
                f"{hours:.2f}",
                store.fingerprint["form"],
                bytes_per_frame,
                f"{store.num_bytes / 1e6:.2f}",
                f"{100 * (store.num_bytes / payload - 1):.1f}",
            )
        )
        lines += [f"    {key}: {store.fingerprint[key]}" for key in SHOWN]
    return "\n".join(lines)


def verify_stores(stores: Sequence[TargetStore]) -> None:
    """Compare all files with what the manifests say.

    Raises:
        TargetStoreError: naming each file that differs.
    """
    problems = [line for store in stores for line in store.verify()]
    if problems:
        raise TargetStoreError(
            "\n  ".join([f"{len(problems)} bad file(s):", *problems])
        )
