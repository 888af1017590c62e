"""The playground: pick a page, choose settings, watch it being read, compare, keep; in JupyterLab and as a page."""

from ocrlab.workspace.playground.app import Playground

__all__ = ["Playground"]
