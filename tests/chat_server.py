"""A small chat server in this program that answers in each vendor's format, and misbehaves on demand."""

import asyncio
import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

from tenacity import wait_none
from waiting import WAIT_SECONDS

from adaptthink.chat import pace
from adaptthink.engines import http_retry as web

CUT, HANG = object(), object()  # instead of a piece of an answer: close the connection; send nothing more


def event(data, name=None):
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + b"\n\n"


def text_event(data):
    """The same with its characters as UTF-8 instead of as escapes."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def delta(finish=None, **fields):
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": fields, "logprobs": None, "finish_reason": finish}],
        "usage": None,
    }


def total(usage=USAGE):
    """The last chunk of a stream with include_usage."""
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": usage}


def stream(*deltas, finish="stop", usage=USAGE):
    """An OpenAI-style stream: the role, the deltas, the finish, the usage, the end."""
    chunks = [delta(role="assistant", content=""), *(delta(**fields) for fields in deltas), delta(finish)]
    return [*(event(chunk) for chunk in chunks), *([event(total(usage))] if usage else []), DONE]


def claude(*blocks, stop="end_turn", usage=None):
    """A stream of Anthropic's: blocks are lists of deltas, after the block that they begin with."""
    begun = {"input_tokens": 25, "cache_read_input_tokens": 5, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "c", "stop_reason": None}
    yield event({"type": "message_start", "message": message | {"usage": begun}}, "message_start")
    yield event({"type": "ping"}, "ping")
    for index, (block, *deltas) in enumerate(blocks):
        start = {"type": "content_block_start", "index": index, "content_block": block}
        yield event(start, start["type"])
        for part in deltas:
            yield event({"type": "content_block_delta", "index": index, "delta": part}, "content_block_delta")
        yield event({"type": "content_block_stop", "index": index}, "content_block_stop")
    end = {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}}
    yield event(end | {"usage": usage or {"output_tokens": 15}}, "message_delta")
    yield event({"type": "message_stop"}, "message_stop")


def thinking(*parts):
    signature = {"type": "signature_delta", "signature": "EqQB"}
    begun = {"type": "thinking", "thinking": "", "signature": ""}
    return [begun, *({"type": "thinking_delta", "thinking": part} for part in parts), signature]


def text(*parts):
    return [{"type": "text", "text": ""}, *({"type": "text_delta", "text": part} for part in parts)]


class FakeServer(ThreadingHTTPServer):
    """Gives `plans` one after the other, then `default`: pieces of a stream, or (status, headers, body)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.plans, self.calls, self.default = deque(), [], stream({"content": "2"})
        self.together, self.most_together, self.lock = 0, 0, threading.Lock()
        self.released, self.gone = threading.Event(), threading.Event()

    def handle_error(self, request, client_address):
        self.gone.set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.calls.append(SimpleNamespace(path=self.path, headers=self.headers, body=body))
        with server.lock:
            server.together += 1
            server.most_together = max(server.most_together, server.together)
            plan = server.plans.popleft() if server.plans else server.default
        plan = plan(body) if callable(plan) else plan
        try:
            self.send_whole(*plan) if isinstance(plan, tuple) else self.send_pieces(plan)
        finally:
            with server.lock:
                server.together -= 1

    def send_whole(self, status, headers, body):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_pieces(self, pieces):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            if piece is CUT:
                self.close_connection = True
                self.connection.close()
                return
            if piece is HANG:
                self.server.released.wait(WAIT_SECONDS)
                return
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


def serving(monkeypatch):
    """For a fixture: a server that runs while the test does; clients do not wait between attempts.

    `waits` has the seconds that they wait after refusals, by a clock that only waiting moves.
    """
    monkeypatch.setattr(web, "BACKOFF", wait_none())
    waits = []

    async def sleep(seconds):
        waits.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(pace, "sleep", sleep)
    monkeypatch.setattr(pace, "clock", lambda: sum(waits) + 1e-6 * len(waits))  # always past what was waited for
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    server = FakeServer()
    server.waits = waits
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()
