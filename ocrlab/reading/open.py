"""The one door to a reader, wherever its model is."""

from __future__ import annotations

from ocrlab.reading.loading import Unsupported
from ocrlab.reading.page_reader import PageReader
from ocrlab.reading.reader import Reader
from ocrlab.reading.server_reader import ServerReader
from ocrlab.reading.settings import Settings, is_endpoint


def open_reader(settings: Settings) -> PageReader:
    """Return a loaded reader whose settings are confirmed; use it as a context manager to free the model.

    Raises:
        CheckpointError: the model cannot be had or must not be loaded.
        Unsupported: the device, dtype or attention cannot run here.
        SettingNotApplied: a setting did not arrive.
        EndpointError: the server that the model_id names does not answer.
    """
    return ServerReader(settings) if is_endpoint(settings.model_id) else Reader(settings)


def in_this_process(reader: PageReader) -> Reader:
    """Return the reader, whose model can be looked into.

    Raises:
        Unsupported: its model is on a server.
    """
    if isinstance(reader, Reader):
        return reader
    raise Unsupported(
        "the model is on a server, and this looks inside a model in this process; give a model_id that is loaded here"
    )
