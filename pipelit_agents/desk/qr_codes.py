"""QR codes of provisioning URIs, as SVG images for a page."""

from __future__ import annotations

from pydantic import SecretStr

from pipelit_agents._discretion import discreet
from pipelit_agents.display import qr_code

__all__ = ["qr_svg"]


@discreet
def qr_svg(uri: SecretStr) -> SecretStr:
    """Return the QR code of an ``otpauth://`` URI as an SVG element, black on white."""
    return SecretStr(qr_code(uri)._repr_html_())
