"""What the gateway adds to a stream: a client asks a server directly, and the same server through `adaptthink serve`.

    python benchmarks/gateway.py [--streams 1 100] [--rounds 3] [--json]

The server is a fake in vLLM's form in a process of its own. It writes a token of each stream every `--pace` ms, and
tells when it wrote each, so that a client knows how long they were on their way. Both ways take turns,
against the same server; the difference of their medians is what the gateway adds. The first text comes later by a pace,
and in mode auto by one call more: the one for the decision.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2 as httpx
import psutil
import uvicorn
from record import surroundings, write_result
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

SOURCE = Path(__file__).resolve().parents[1] / "src"
PIECES = 10  # of a response


@dataclass(frozen=True)
class Round:
    """Medians over the pieces and over the streams of a round, and the 95th percentiles; in ms."""

    piece_ms: float  # from the server's writing to the client's reading
    piece_ms_p95: float
    first_ms: float  # from the request to the first text
    first_ms_p95: float
    cpu_ms: float  # of the server's processor time, for each piece, all of a request's work in it


def make_fake(pace: float):
    """Return an application with vLLM's /v1/completions and /v1/chat/completions."""

    stamps: dict[str, list[float]] = {}  # when each piece was written, by request

    async def tell(request):
        return JSONResponse(stamps[request.path_params["number"]])

    async def models(_):
        return JSONResponse({"data": [{"id": "tiny", "max_model_len": 1024}]})

    async def complete(request):
        call = await request.json()
        if not call.get("stream"):
            named = {f"token_id:{token}": -0.1 for token in call.get("logprob_token_ids", [])}
            logprobs = {"top_logprobs": [named]}
            choice = {"index": 0, "text": "1", "token_ids": [16], "finish_reason": "length", "logprobs": logprobs}
            usage = {"prompt_tokens": len(call["prompt"]), "completion_tokens": 1}
            return JSONResponse({"choices": [choice], "usage": usage})

        chat = "messages" in call
        # A request is known by the number in its question, whose digits are its tokens too.
        question = call["messages"][0]["content"] if chat else "".join(chr(one + ord("!")) for one in call["prompt"])
        known = stamps["".join(sign for sign in question if sign in "0123456789")] = []

        async def write():
            loop = asyncio.get_running_loop()
            due = loop.time()
            for number in range(PIECES):
                due += pace
                await asyncio.sleep(due - loop.time())
                form = {"delta": {"content": "1"}} if chat else {"text": "1", "token_ids": [ord("1") - ord("!")]}
                choice = {"index": 0, "finish_reason": "length" if number == PIECES - 1 else None} | form
                known.append(time.monotonic())
                yield f"data: {json.dumps({'choices': [choice]})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(write(), media_type="text/event-stream")

    routes = [Route("/v1/models", models), Route("/stamps/{number}", tell)]
    paths = ("/v1/completions", "/v1/chat/completions")
    return Starlette(routes=[*routes, *(Route(path, complete, methods=["POST"]) for path in paths)])


def serve_fake(pace: float) -> None:
    """Serve the fake until the process ends; its port is printed."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(make_fake(pace), log_level="error")).run(sockets=[listening])


@contextmanager
def running(*command: str):
    """Run a server; yields its URL and its process."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        line = next(line for line in process.stdout if line.startswith(("serving", "http://")))
        yield "http://" + line.split("http://")[1].strip().removesuffix("/v1"), psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


async def stream(client: httpx.AsyncClient, url: str, fake: str, number: str) -> tuple[float, list[float]]:
    """Return the seconds to the first text, and how long each piece was on its way."""
    body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": number}]}
    began, arrivals, rest = time.monotonic(), [], b""
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        async for chunk in answer.aiter_raw():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.startswith(b"data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        arrivals += [time.monotonic()] * len(choice["delta"].get("content") or "")
    stamps = (await client.get(f"{fake}/stamps/{number}")).json()
    return arrivals[0] - began, [arrival - stamp for arrival, stamp in zip(arrivals, stamps, strict=True)]


async def measure(url: str, process: psutil.Process, fake: str, streams: int, spread: float) -> Round:
    """Run all streams, their beginnings spread over some seconds."""
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:

        async def run(number: int):
            await asyncio.sleep(spread * number / streams)
            await stream(client, url, fake, f"{number}0")  # connections are made, caches filled
            return await stream(client, url, fake, f"{number}1")

        used = sum(process.cpu_times()[:2])
        done = await asyncio.gather(*map(run, range(streams)))
        used = sum(process.cpu_times()[:2]) - used
    firsts = sorted(1000 * first for first, _ in done)
    delays = sorted(1000 * one for _, pieces in done for one in pieces)
    late = [values[int(0.95 * (len(values) - 1))] for values in (delays, firsts)]
    medians = statistics.median(delays), statistics.median(firsts)
    return Round(medians[0], late[0], medians[1], late[1], 1000 * used / (2 * len(delays)))


def main() -> None:
    """Print a table, one line for each number of streams and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pace", type=float, default=500, help="ms between two tokens of a stream")
    parser.add_argument("--json", action="store_true", help="write a file under results/")
    parser.add_argument("--fake", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fake:
        return serve_fake(options.pace / 1000)
    results = {}
    with ExitStack() as stack:
        fake = stack.enter_context(running(sys.executable, __file__, "--fake", "--pace", str(options.pace)))
        command = (sys.executable, "-m", "adaptthink", "serve", "tiny", "--port", "0", "--upstream", fake[0])
        gateway = stack.enter_context(running(*command, "--threshold", "0.5"))
        print("streams  way        a piece     its p95  first text     its p95  processor, a piece")
        for streams in options.streams:
            rounds: dict[str, list[Round]] = {"direct": [], "gateway": []}
            for _ in range(options.rounds):
                for way, server in (("direct", fake), ("gateway", gateway)):
                    rounds[way].append(asyncio.run(measure(*server, fake[0], streams, PIECES * options.pace / 1000)))
            found = {
                way: Round(*(statistics.median(one) for one in zip(*(asdict(r).values() for r in each), strict=True)))
                for way, each in rounds.items()
            }
            for way, one in found.items():
                print(f"{streams:>7}  {way:8}" + "".join(f"{value:9.2f} ms" for value in asdict(one).values()))
            added = found["gateway"].piece_ms - found["direct"].piece_ms
            first = found["gateway"].first_ms - found["direct"].first_ms
            print(f"{streams:>7}  added: {added:.2f} ms to a piece, {first:.2f} ms to the first text", flush=True)
            results[str(streams)] = {way: asdict(one) for way, one in found.items()} | {
                "added_piece_ms": added,
                "added_first_ms": first,
                "piece_ratio": found["gateway"].piece_ms / found["direct"].piece_ms,
                "rounds": {way: [asdict(one) for one in each] for way, each in rounds.items()},
            }
    if options.json:
        packages = ("httpx2", "starlette", "uvicorn")
        settings = {"pace_ms": options.pace, "pieces": PIECES, "rounds": options.rounds}
        print(write_result("gateway", surroundings(packages) | {"settings": settings, "streams": results}))
    return None


if __name__ == "__main__":
    main()
