"""Identifiers of licences: those that the Hub's model cards may have, and SPDX's."""

import difflib

from packaging.licenses import (
    InvalidLicenseExpression,
    canonicalize_license_expression,
)

from espnet_mtkd.errors import ConfigError

# https://huggingface.co/docs/hub/repositories-licenses, November 2026. A card with
# another one is not taken by the Hub.
HUB_LICENCES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m openrail++
    bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd
    bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0
    cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
    agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research
    intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    open-mdw openmdw-1.0 openrail-m osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl
    lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3
    llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown other
    """.split()
)


def hub_licence(licence: str, flag: str = "--license") -> str:
    """The Hub's identifier of a model's licence.

    Args:
        licence: as it was given; capitals do not matter.
        flag: that an error names.

    Raises:
        ConfigError: the Hub does not know it; close ones are named.
    """
    found = licence.strip().lower()
    if found in HUB_LICENCES:
        return found
    raise ConfigError(
        f"{flag}: expected an identifier of the Hub "
        "(https://huggingface.co/docs/hub/repositories-licenses), found "
        f"'{licence}'{_close(found)}; for one that it does not list: other"
    )


def any_licence(licence: str, flag: str) -> str:
    """A licence that the Hub, or SPDX, knows; as it was given.

    Raises:
        ConfigError: neither does.
    """
    if licence.strip().lower() in HUB_LICENCES:
        return licence
    try:
        canonicalize_license_expression(licence)
    except InvalidLicenseExpression as e:
        raise ConfigError(
            f"{flag}: expected an identifier of the Hub, of SPDX "
            f"(https://spdx.org/licenses), or unknown; found '{licence}'"
            f"{_close(licence.lower())}"
        ) from e
    return licence


def _close(licence: str) -> str:
    close = difflib.get_close_matches(licence, sorted(HUB_LICENCES))
    return f" (did you mean {' or '.join(close)}?)" if close else ""
