"""Multi-teacher knowledge distillation into ESPnet transducers."""

__version__ = "0.1.0"
