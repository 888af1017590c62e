"""Pages: our sets with their hashes checked, and users' own files, refused by name where they cannot be read."""

from ocrlab.pages.errors import PageError
from ocrlab.pages.images import open_image
from ocrlab.pages.lists import expand
from ocrlab.pages.page import Page, page_size
from ocrlab.pages.sets import load_pages, set_names

__all__ = ["Page", "PageError", "expand", "load_pages", "open_image", "page_size", "set_names"]
