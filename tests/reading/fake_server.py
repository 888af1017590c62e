"""A small server that speaks the API of OpenAI-compatible servers, and does what a test tells it to do wrong."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from ocrlab.reading.server_reader import CHECK_SIZE

TEXT_TOKENS = 20
FACTOR = 28


@dataclass
class Fake:
    """What the server does and saw. `turns` are played in order, one a request for a page; then it answers well.

    `keep` says whether bodies, headers and images are kept for a test to look at. `answers` are JSON by path, with a
    status before it where it is not 200; `not_ready` is how many look-ups come before it is ready. Of the two images
    that it is asked about when it is opened, the second gets the first one's text where it `copies`.
    """

    turns: list[Callable[[Any], None]] = field(default_factory=list)
    always: Callable[[Any], None] | None = None
    owner: str = "vllm"
    name: str = "m"
    text: str = "read well"
    keep: bool = True
    answers: dict[str, Any] = field(default_factory=dict)
    not_ready: int = 0
    copies: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    seconds: float = 0.0
    url: str = ""
    port: int = 0
    server: Any = None

    @property
    def model_id(self) -> str:
        return f"endpoint:{self.url}/v1#{self.name}"

    def stop(self) -> None:
        self.server.stopped.set()
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def fake_server(**options: Any) -> Iterator[Fake]:
    fake, lock = Fake(**options), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if fake.keep:
                fake.headers.append(dict(self.headers))
            if fake.not_ready:
                fake.not_ready -= 1
                reply(self, 503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}})
            elif self.path in fake.answers:
                reply(self, 200, fake.answers[self.path])
            elif self.path == "/v1/models":
                reply(self, 200, {"object": "list", "data": [{"id": fake.name, "owned_by": fake.owner}]})
            else:
                reply(self, 404, {"detail": "Not Found"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = {part["type"]: part for part in body["messages"][-1]["content"]}
            url, self.prompt = content["image_url"]["image_url"]["url"], content["text"]["text"]
            self.image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
            check = self.image.size == CHECK_SIZE
            trial = body["max_tokens"] == 1 or check
            with lock:
                fake.at_once += 1
                fake.most_at_once = max(fake.most_at_once, fake.at_once)
                if fake.keep:
                    fake.headers.append(dict(self.headers))
                if fake.keep and not trial:
                    fake.bodies.append(body)
                turn = fake.always or (fake.turns.pop(0) if fake.turns and not trial else answer)
                turn = (answer if fake.copies else seen) if check else turn
            self.body, self.fake = body, fake
            try:
                if not trial:
                    if fake.keep:
                        fake.images.append(self.image.copy())
                    time.sleep(fake.seconds)
                turn(self)
            finally:
                with lock:
                    fake.at_once -= 1

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # a client that hangs up is what some tests want

    fake.server = Quiet(("127.0.0.1", fake.port), Handler)
    fake.server.stopped = threading.Event()
    fake.port = fake.server.server_address[1]
    fake.url = f"http://127.0.0.1:{fake.port}"
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.stop()
        thread.join(5)


def reply(handler: Any, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    """Send a whole answer: JSON, or text as it is."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    handler.send_response(status)
    kind = "text/html" if isinstance(body, str) else "application/json"
    for name, value in ({"Content-Type": kind, "Content-Length": str(len(data))} | (headers or {})).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def begin(handler: Any, pieces: list[str]) -> None:
    """Begin a stream with these pieces of text, and leave it open."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for piece in pieces:
        send(handler, event(piece))


def send(handler: Any, data: str) -> None:
    raw = data.encode()
    handler.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
    handler.wfile.flush()


def event(piece: str | None, finish: str | None = None, usage: dict[str, int] | None = None) -> str:
    delta = {"content": piece} if piece is not None else {}
    chunk = {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return f"data: {json.dumps(chunk | ({'usage': usage} if usage else {}))}\n\n"


def cells(image: Image.Image) -> int:
    """Return the image tokens that an image takes."""
    return round(image.width / FACTOR) * round(image.height / FACTOR)


def end(handler: Any, finish: str, new_tokens: int) -> None:
    usage = {"prompt_tokens": TEXT_TOKENS + cells(handler.image), "completion_tokens": new_tokens}
    send(handler, event(None, finish, usage | {"total_tokens": sum(usage.values())}))
    send(handler, "data: [DONE]\n\n")
    handler.wfile.write(b"0\r\n\r\n")


def answer(handler: Any) -> None:
    """Answer as a sound server does: words as tokens, cut at max_tokens, and an end token."""
    words = [f"{word} " for word in handler.fake.text.split()]
    cap = handler.body["max_tokens"]
    begin(handler, words[:cap])
    end(handler, "stop" if len(words) < cap else "length", min(len(words) + 1, cap))


def seen(handler: Any) -> None:
    """Answer with what tells one image from another."""
    begin(handler, [f"{hash(handler.image.tobytes())}"])
    end(handler, "stop", 2)


def replay(chunks: list[Any]) -> Callable[[Any], None]:
    """Return a turn that streams recorded chunks: objects, or lines as they are."""

    def turn(handler: Any) -> None:
        begin(handler, [])
        for chunk in chunks:
            send(handler, chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}\n\n")
        handler.wfile.write(b"0\r\n\r\n")

    return turn


def cut(handler: Any) -> None:
    """Break off in the middle of the text, as a process that is killed does."""
    begin(handler, ["only "])
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def status(code: int, message: str = "busy", **headers: str) -> Callable[[Any], None]:
    """Return a turn that answers with an HTTP status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: reply(handler, code, {"error": {"message": message}}, named)
