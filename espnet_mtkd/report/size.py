"""How large report.html may be, as an option says it."""

import math

from espnet_mtkd.errors import ConfigError


def read_megabytes(text: str) -> float:
    """Millions of bytes of `--report_mb`.

    Raises:
        ConfigError: no number above 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(f"--report_mb: expected a number above 0, found '{text}'")
    return value
