"""A server in this program that speaks the form of vLLM's /v1/completions, and misbehaves on request."""

import json
import math
import threading
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from waiting import WAIT_SECONDS

from adaptthink.engines.base import Finish, Request

EOS, VOCABULARY = 299, 300


class FakeServer(ThreadingHTTPServer):
    """Its model gives token i the logit −i/10 and always samples 7, or the end token after a context that ends in 8.

    `faults` are what the next calls meet instead of an answer: a status with headers, text for a body, "drop", or an
    event to wait for first.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults, self.calls, self.keys = deque(), [], []
        self.models = [{"id": "tiny", "max_model_len": 64}]
        self.processed, self.removed, self.resets, self.files = True, (), True, []
        self.together, self.max_together, self.lock = 0, 0, threading.Lock()

    def handle_error(self, request, client_address):
        """A client that went away is no news."""

    def meets(self, path, call):
        """What a call meets instead of an answer; None: an answer."""
        return self.faults.popleft() if self.faults else None

    def complete(self, call):
        temperature = call["temperature"] if self.processed else 1.0
        total = math.log(sum(math.exp(-i / 10 / temperature) for i in range(VOCABULARY)))
        logprob = [-i / 10 / temperature - total for i in range(VOCABULARY)]
        ids = [EOS] if call["prompt"][-1] == 8 else [7] * call["max_tokens"]
        shown = [*ids[:1], *call.get("logprob_token_ids", ())]
        choice = {
            "token_ids": ids,
            "finish_reason": "stop" if ids == [EOS] else "length",
            "logprobs": {
                "token_logprobs": [logprob[token] for token in ids],
                "top_logprobs": [{f"token_id:{token}": logprob[token] for token in shown}] * len(ids),
            },
        }
        return {"choices": [{key: value for key, value in choice.items() if key not in self.removed}]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a head and a body sent apart would wait for each other

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.answer(lambda: {"data": self.server.models}, None)

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        self.server.calls.append((self.path, call))
        if self.path == "/collective_rpc":
            self.server.files = sorted(path.name for path in Path(call["args"][0]).iterdir())
            self.answer(lambda: {"results": [None]}, call)
        elif self.path == "/reset_prefix_cache":
            self.answer(lambda: {"success": self.server.resets}, call)
        else:
            self.answer(lambda: self.server.complete(call), call)

    def answer(self, make, call):
        server = self.server
        server.keys.append(self.headers["Authorization"])
        with server.lock:
            server.together += 1
            server.max_together = max(server.max_together, server.together)
            fault = server.meets(self.path, call)
        if isinstance(fault, threading.Event):
            fault.wait(WAIT_SECONDS)
            fault = None
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
        elif isinstance(fault, tuple):
            self.send(fault[0], b'{"error": {"message": "as requested"}}', fault[1])
        else:
            self.send(200, fault.encode() if fault else json.dumps(make()).encode(), {})
        with server.lock:
            server.together -= 1

    def send(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class ModelServer(FakeServer):
    """Answers with an engine's responses, one at a time; the seed of a call names its random stream."""

    def __init__(self, engine, *, port=0):
        super().__init__(port=port)
        self.engine, self.busy = engine, threading.Lock()
        self.models = [{"id": "tiny", "max_model_len": 512}]

    def complete(self, call):
        request = Request(tuple(call["prompt"]), call["max_tokens"], call["seed"])
        scored = call.get("logprob_token_ids", [])
        with self.busy:
            [done] = self.engine.generate([request], temperature=call["temperature"], top_p=call["top_p"])
            if scored:
                [row] = self.engine.next_token_logprobs([request.prompt_ids], scored, temperature=call["temperature"])
            else:
                row = []
        top = {f"token_id:{token}": logprob for token, logprob in zip(scored, row, strict=True)}
        return {
            "choices": [
                {
                    "token_ids": done.token_ids,
                    "finish_reason": "stop" if done.finish is Finish.STOP else "length",
                    "logprobs": {"token_logprobs": done.logprobs, "top_logprobs": [top] * len(done.token_ids)},
                }
            ]
        }


@contextmanager
def running(server):
    """Serve in a thread until the end of the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
