"""The report as one HTML file that opens from disk: no network, safe against what models print."""

from palimpsest.page.render import render

__all__ = ["render"]
