"""The playground: pick a page, choose settings, watch it being read, compare, keep; in JupyterLab and as a page."""

from ocrlab.playground.app import Playground

__all__ = ["Playground"]
