"""Thin `python -m espnet_mtkd.bin.<name>` entries: they parse arguments and call.

A module is `get_parser`, `main` and what lies between them; its imports of torch and
ESPnet are inside, so that `--help` is quick. Logic belongs into the other folders.
"""

from espnet_mtkd.compat import check_types_lazily

check_types_lazily()
