"""`python -m ocrlab serve`: a model for other programs on this computer, by transformers' own server."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_serve(commands: Any) -> None:
    """Give the command line its `serve`."""
    serve = commands.add_parser(
        "serve", help="serve a model to this computer: transformers' own server, without torchvision",
        description="An OpenAI-compatible server on 127.0.0.1 until it is stopped. Read with it: python -m ocrlab read "
        "--model_id endpoint:http://127.0.0.1:PORT/v1#MODEL. Exit code 2: it cannot be served here.",
    )  # fmt: skip
    serve.add_argument("--model", default="tiny", help="tiny, a folder or a Hub id (default: tiny)")
    serve.add_argument("--port", type=int, default=8000, help="default: 8000")
    serve.add_argument("--device", default="auto", help="default: auto")
    serve.add_argument("--dtype", default="auto", help="default: what a reader in this process takes")
    serve.add_argument("--attn_implementation", "--attn-implementation", default="sdpa", help="default: sdpa")
    serve.add_argument("--with-parent", action="store_true", help="end when standard input closes")
    serve.set_defaults(command=_serve)


def _serve(args: argparse.Namespace) -> int:
    from ocrlab.reading.checkpoints import CheckpointError
    from ocrlab.reading.loading import Unsupported
    from ocrlab.reading.serve import serve

    try:
        serve(
            args.model, args.port, device=args.device, dtype=args.dtype, attention=args.attn_implementation,
            with_parent=args.with_parent,
        )  # fmt: skip
    except (CheckpointError, Unsupported, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0
