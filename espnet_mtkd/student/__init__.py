"""What a student is and how it is used: built, found, loaded, by s3prl too.

Frontend, normaliser and encoder, without heads, teachers or training (`pretraining`).
Imported lazily: who needs a student's files or tensors alone does not wait for ESPnet.
"""

__all__ = ["Student", "load_student"]


def __getattr__(name: str):
    if name in __all__:
        from espnet_mtkd.student import load

        return getattr(load, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
