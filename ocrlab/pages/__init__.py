"""Pages: our sets with their hashes checked, and users' own files, refused by name where they cannot be read."""

from ocrlab.pages.images import PageError, open_image
from ocrlab.pages.load import expand, load_pages, set_names
from ocrlab.pages.page import Page, page_size

__all__ = ["Page", "PageError", "expand", "load_pages", "open_image", "page_size", "set_names"]
