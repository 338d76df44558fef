"""Servers that a gateway may have behind it, with our engines in them: the forms of vLLM, SGLang, llama.cpp, Ollama.

The forms of calls and answers are those of the servers' own documentation and source; what the gateway must not rely on
is missing where it is missing there. `faults` are what the next calls meet instead of an answer.
"""

import asyncio
import json
import math
from collections import deque

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from adaptthink.engines.base import Finish, Request
from adaptthink.engines.jobs import Job
from adaptthink.modes import Mode
from adaptthink.serving.worker import Worker

CONTEXT = 900


class FakeUpstream:
    """One model under one name; `dialect` is the server's.

    With a `template` the engine gets forced tokens as a prefix, as it does from a server without a gateway.
    """

    def __init__(self, engine, tokenizer, *, dialect="vllm", key=None, names=("tiny",), scores=True, template=None):
        self.template = template
        self.worker, self.tokenizer, self.dialect, self.key = Worker(engine), tokenizer, dialect, key
        self.names, self.scores = names, scores
        self.calls, self.faults, self.abandoned, self.connections = [], deque(), 0, set()
        routes = [Route("/v1/models", self.models)]
        if dialect == "ollama":
            routes += [Route("/api/generate", self.answer, methods=["POST"]), Route("/api/ps", self.loaded)]
        if dialect == "llama.cpp":
            routes += [Route("/props", self.props)]
        if dialect == "chat":
            routes += [Route("/v1/chat/completions", self.answer, methods=["POST"])]
        else:
            routes += [Route("/v1/completions", self.answer, methods=["POST"])]
        self.app = Starlette(routes=routes, lifespan=self.lifespan)

    def lifespan(self, app):
        return Life(self.worker)

    def refuses(self, request):
        self.connections.add(request.client.port)
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "no"}}, 401)
        return None

    async def models(self, request):
        extra = {"max_model_len": CONTEXT} if self.dialect in ("vllm", "sglang") else {}
        return self.refuses(request) or JSONResponse({"data": [{"id": name} | extra for name in self.names]})

    async def props(self, request):
        return JSONResponse({"default_generation_settings": {"n_ctx": CONTEXT}})

    async def loaded(self, request):
        return JSONResponse({"models": [{"model": "tiny", "context_length": CONTEXT}]})

    async def answer(self, request):
        if refusal := self.refuses(request):
            return refusal
        call = await request.json()
        self.calls.append((request.url.path, call))
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, tuple):
            status, headers, content = fault
            return Response(content, status, headers, "application/json")
        if self.dialect == "ollama" and request.url.path != "/api/generate":
            if not isinstance(call["prompt"], str):
                return JSONResponse({"error": {"message": "invalid prompt"}}, 400)
            prompt = self.tokenizer.apply_chat_template([{"role": "user", "content": call["prompt"]}])  # its template
            call |= {"prompt": prompt["input_ids"]}
        generation = Generated(self, call)
        if not call.get("stream"):
            return JSONResponse(await generation.whole())
        kind = "application/x-ndjson" if self.dialect == "ollama" else "text/event-stream"
        return StreamingResponse(generation.stream(fault), media_type=kind)


class Life:
    def __init__(self, worker):
        self.worker = worker

    async def __aenter__(self):
        self.worker.start()

    async def __aexit__(self, *error):
        await self.worker.stop()


class Generated:
    """One completion of a fake upstream."""

    def __init__(self, upstream, call):
        self.upstream, self.call, self.dialect = upstream, call, upstream.dialect
        tokenizer = self.tokenizer = upstream.tokenizer
        options = call.get("options", call)
        self.max_tokens = options.get("num_predict", options.get("max_tokens"))
        if self.dialect == "chat":
            switch = call.get("chat_template_kwargs", {})
            template = [{"role": one["role"], "content": one["content"]} for one in call["messages"]]
            prompt = tokenizer.apply_chat_template(template, add_generation_prompt=True, **switch)["input_ids"]
        else:
            prompt = call["prompt"]
        if isinstance(prompt, str):
            prompt = tokenizer.encode(prompt, add_special_tokens=False)
        self.prompt = tuple(prompt)
        self.events = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        temperature, top_p = options["temperature"], options["top_p"]
        greedy = temperature == 0
        forced = [upstream.template.prefix_ids(mode) for mode in Mode] if upstream.template else []
        [self.prefix] = [ids for ids in forced if self.prompt[-len(ids) :] == ids] or [()]
        self.job = Job(
            self.prompt[: len(self.prompt) - len(self.prefix)],
            self.begin,
            self.on_token,
            self.post,
            scored_ids=tuple(range(len(tokenizer))) if self.wants_scores else (),
            temperature=1.0 if greedy else temperature,
            top_p=1e-9 if greedy else top_p,
        )
        upstream.worker.submit(self.job)

    @property
    def wants_scores(self):
        return self.upstream.scores and bool(self.call.get("logprobs"))

    def post(self, event):
        self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    def begin(self, scores):
        self.scores = scores
        options = self.call.get("options", self.call)
        self.forced = len(self.prefix)
        limit = self.max_tokens + self.forced
        return [Request(self.job.prompt_ids, limit, options["seed"], prefix_ids=self.prefix)]

    def on_token(self, choice, token, finish):
        if self.forced:
            self.forced -= 1
        else:
            self.post((token, finish))
        return True

    async def take(self):
        event = await self.events.get()
        if isinstance(event, Exception):
            raise event
        return event

    async def whole(self):
        tokens, finish = [], None
        while finish is None:
            token, finish = await self.take()
            tokens.append(token)
        return self.write(tokens, finish, len(tokens), last=True)

    async def stream(self, fault):
        count, finish = 0, None
        try:
            while finish is None:
                token, finish = await self.take()
                count += 1
                if fault == "drop" and count == 3:
                    raise RuntimeError("as requested")
                if fault == "error" and count == 3:
                    yield self.frame({"error": {"message": "out of memory at 10.0.0.7"}})
                    return
                yield self.frame(self.write([token], finish, count, last=False))
            if self.call.get("stream_options"):
                yield self.frame({"choices": [], "usage": self.usage(count)})
            if self.dialect != "ollama":
                yield "data: [DONE]\n\n"
        finally:
            if finish is None:
                self.job.cancelled = True
                self.upstream.abandoned += 1

    def frame(self, content):
        return f"{json.dumps(content)}\n" if self.dialect == "ollama" else f"data: {json.dumps(content)}\n\n"

    def usage(self, count):
        return {"prompt_tokens": len(self.prompt), "completion_tokens": count}

    def write(self, tokens, finish, count, *, last):
        shown = tokens[:-1] if finish is Finish.STOP else tokens
        text = self.tokenizer.decode(shown)
        reason = finish and str(finish)
        if self.dialect == "ollama":
            ends = {"done_reason": reason, "eval_count": count, "prompt_eval_count": len(self.prompt)} if finish else {}
            named = [{"token": self.tokenizer.decode([one]), "logprob": score} for one, score in self.top()]
            logprobs = {"logprobs": [named[0] | {"top_logprobs": named}]} if self.wants_scores else {}
            return {"model": "tiny", "response": text, "done": bool(finish)} | ends | logprobs
        if self.dialect == "chat":
            message = {"message" if last else "delta": {"role": "assistant", "content": text}}
            choice = {"index": 0, "finish_reason": reason} | message
            return {"choices": [choice]} | ({"usage": self.usage(count)} if last else {})
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
        if self.dialect == "vllm" and self.call.get("return_token_ids"):
            choice["token_ids"] = tokens
        if self.wants_scores:
            choice["logprobs"] = self.logprobs()
        return {"choices": [choice]} | ({"usage": self.usage(count)} if last else {})

    def top(self):
        if not self.wants_scores:
            return [(0, 0.0)]
        ranked = sorted(enumerate(self.scores), key=lambda one: -one[1])
        return ranked[: self.call.get("top_logprobs", self.call["logprobs"])]

    def logprobs(self):
        if self.dialect == "llama.cpp":
            named = [
                {"id": one, "token": self.tokenizer.decode([one]), "bytes": [], "logprob": score}
                for one, score in self.top()
            ]
            return {"content": [named[0] | {"top_logprobs": named}]}
        if self.dialect == "vllm":
            named = {f"token_id:{one}": self.scores[one] for one in self.call["logprob_token_ids"]}
        else:
            named = {self.tokenizer.decode([one]): score for one, score in self.top()}
        return {"top_logprobs": [named], "token_logprobs": [max(self.scores)], "tokens": ["?"], "text_offset": [0]}


def no_think_probability(engine, prompt, token):
    """P(no_think) as the engine itself gives it."""
    [[logprob]] = engine.next_token_logprobs([prompt], (token,))
    return math.exp(logprob)
