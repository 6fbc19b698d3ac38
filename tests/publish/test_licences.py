"""Identifiers of licences against SPDX's list."""

from espnet_mtkd.publish.licences import HUB_LICENCES


def test_licences_of_the_hub_with_a_version_are_spdxs():
    """An independent list has what the Hub has of the well-known families."""
    from packaging.licenses import canonicalize_license_expression

    families = ("apache-", "cc-by", "cc0", "bsd-", "epl-", "mpl-", "eupl-", "cdla-")
    found = [x for x in HUB_LICENCES if x.startswith(families)]
    assert len(found) > 25
    for licence in found:
        assert canonicalize_license_expression(licence).lower() == licence
