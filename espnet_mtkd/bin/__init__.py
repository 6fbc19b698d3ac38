"""Thin `python -m espnet_mtkd.bin.<name>` entries."""
