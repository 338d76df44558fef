"""Many short requests to `adaptthink serve`: good, bad and aborted ones. Does memory grow, is an answer another's?

    python benchmarks/soak.py [--model tiny] [--requests 50000] [--clients 24]

The model's greedy direct answers are taken first, one request at a time; later ones must be the same. Memory is read
after each fiftieth of the requests, once the server is idle and has given back what it freed: the median of the last
fifth may be at most 5% above that of the second, since the first fills caches. What it is under load is read too. At
the end nothing may be left open: no request, no connection. Exits with 1 where any of this fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
from record import RESULTS, surroundings

SOURCE = Path(__file__).resolve().parents[1] / "src"
CHAT = "/v1/chat/completions"
BLOCKS = 50
SUMS = [(first, second) for first in range(10, 90, 4) for second in range(1, 9)]
KINDS = {  # with their weights
    "whole": 6,  # an answer, compared
    "stream": 4,  # the same as a stream
    "leaves early": 2,  # closes the connection as soon as the request is sent
    "leaves late": 2,  # reads some of a long stream, and closes
    "half a body": 1,
    "refused": 2,  # a bad parameter
    "not JSON": 1,
    "no such model": 1,
}
MOST_GROWTH = 1.05
WAIT = 600.0


@dataclass
class Tally:
    """What came of the requests."""

    done: Counter[str] = field(default_factory=Counter)  # by kind, as it should be
    faults: list[str] = field(default_factory=list)
    crossed: list[str] = field(default_factory=list)  # answers that are another's, or wrong


@contextmanager
def serving(model: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run a server; yields its URL and its process."""
    command = [sys.executable, "-m", "adaptthink", "serve", model, "--port", "0", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout
    try:
        line = next(line for line in process.stdout if "http://" in line)
        yield "http://" + line.split("http://")[1].strip().removesuffix("/v1"), psutil.Process(process.pid)
        process.terminate()
        code = process.wait(WAIT)
        assert code == 0, f"the server ended with {code}"
    finally:
        process.kill()
        process.stdout.close()


def make_body(name: str, numbers: tuple[int, int], **others: Any) -> dict[str, Any]:
    """Return a call for a direct, greedy answer."""
    question = {"role": "user", "content": f"{numbers[0]}+{numbers[1]}=?"}
    return {"model": f"{name}:no_think", "temperature": 0, "max_tokens": 24, "messages": [question]} | others


async def read_whole(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    """Return the text of an answer."""
    answer = (await client.post(CHAT, json=body)).raise_for_status().json()
    return str(answer["choices"][0]["message"]["content"])


async def read_stream(client: httpx.AsyncClient, body: dict[str, Any], lines: int | None = None) -> str:
    """Return the text of a stream, which is left after so many lines."""
    text = ""
    async with client.stream("POST", CHAT, json=body | {"stream": True}) as answer:
        answer.raise_for_status()
        read = 0
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
            read += 1
            if lines is not None and read >= lines:
                break
    return text


async def send_raw(url: str, body: bytes, length: int) -> None:
    """Send a head that announces `length` bytes, some of them, and close the connection."""
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    writer.close()


async def send_one(
    client: httpx.AsyncClient,
    url: str,
    name: str,
    right: dict[tuple[int, int], str],
    chance: random.Random,
    tally: Tally,
) -> None:
    """Send one request of a kind by chance, and note what came of it."""
    [kind] = chance.choices(list(KINDS), KINDS.values())
    numbers = chance.choice(SUMS)
    body = make_body(name, numbers)
    long = body | {"model": f"{name}:think", "temperature": 5, "n": 2, "max_tokens": 200}
    try:
        if kind in ("whole", "stream"):
            text = await (read_whole if kind == "whole" else read_stream)(client, body)
            if text != right[numbers]:
                tally.crossed.append(f"{numbers}: {text!r}, alone {right[numbers]!r}")
                return
        elif kind == "leaves late":
            await read_stream(client, long, chance.randrange(2, 30))
        elif kind in ("leaves early", "half a body"):
            data = json.dumps(long).encode()
            await send_raw(url, data[: len(data) // 2] if kind == "half a body" else data, len(data))
        else:
            content = (
                b"[" * 1000
                if kind == "not JSON"
                else json.dumps(body | ({"top_k": 3} if kind == "refused" else {"model": "another"})).encode()
            )
            status = (await client.post(CHAT, content=content)).status_code
            if status != (404 if kind == "no such model" else 400):
                tally.faults.append(f"{kind}: status {status}")
                return
    except (httpx.HTTPError, OSError, LookupError, ValueError) as error:
        tally.faults.append(f"{kind}: {error!r}")
        return
    tally.done[kind] += 1


async def count_open(client: httpx.AsyncClient) -> float:
    """Return the number of requests that the server has not finished."""
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if "_requests " in line and not line.startswith("#"))


async def wait_idle(client: httpx.AsyncClient) -> float:
    """Wait until the server has noticed at its next steps who has left; return what is open after all."""
    deadline = time.monotonic() + WAIT
    while (still_open := await count_open(client)) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return still_open


def count_connections(process: psutil.Process) -> int:
    """Return the number of connections that the server has not closed."""
    return sum(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp"))


async def soak(url: str, process: psutil.Process, args: argparse.Namespace) -> dict[str, Any]:
    """Send all requests; returns what was found."""
    tally, chance, began, rss = Tally(), random.Random(args.seed), time.monotonic(), []
    loaded: list[float] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=args.clients)
    async with httpx.AsyncClient(base_url=url, timeout=WAIT, limits=limits) as client:
        name = (await client.get("/v1/models")).json()["data"][0]["id"]
        right = {numbers: await read_whole(client, make_body(name, numbers)) for numbers in SUMS}
        threads = process.num_threads()
        left = args.requests
        for block in range(BLOCKS):
            size = left // (BLOCKS - block)
            left -= size
            tickets = iter(range(size))

            async def work(tickets: Iterator[int] = tickets) -> None:
                for _ in tickets:
                    await send_one(client, url, name, right, chance, tally)

            await asyncio.gather(*(work() for _ in range(args.clients)))
            loaded.append(process.memory_info().rss / 2**20)
            still_open = await wait_idle(client)
            await asyncio.sleep(args.rest)
            rss.append(process.memory_info().rss / 2**20)
            line = f"{args.requests - left:,} requests, {time.monotonic() - began:.0f} s, {rss[-1]:.0f} MB"
            print(f"{line}, {len(tally.crossed)} crossed, {len(tally.faults)} faults", flush=True)
    deadline = time.monotonic() + WAIT
    while (connections := count_connections(process)) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    fifth = BLOCKS // 5
    before, after = statistics.median(rss[fifth : 2 * fifth]), statistics.median(rss[-fifth:])
    return {
        "requests": args.requests,
        "clients": args.clients,
        "seconds": round(time.monotonic() - began),
        "as_expected": dict(sorted(tally.done.items())),
        "crossed": tally.crossed,
        "faults": tally.faults,
        "still_open": still_open,
        "distinct_answers": len(set(right.values())),
        "rss_mb": [round(one, 1) for one in rss],
        "rss_mb_under_load": [round(one, 1) for one in loaded],
        "rss_mb_second_fifth": before,
        "rss_mb_last_fifth": after,
        "still_connected": connections,
        "threads": [threads, process.num_threads()],
    }


def main() -> int:
    """Run the soak and store its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument(
        "--rest", type=float, default=1.5, help="s before memory is read: the server gives some back after one"
    )
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/soak-DATE.json")
    args = parser.parse_args()
    with serving(args.model) as (url, process):
        found = asyncio.run(soak(url, process, args))
    about = surroundings(["adaptthink", "torch", "starlette", "uvicorn"])
    path = args.json or RESULTS / f"soak-{about['date']}.json"
    path.write_text(json.dumps(about | found, indent=1) + "\n", encoding="utf-8")
    growth = found["rss_mb_last_fifth"] / found["rss_mb_second_fifth"]
    print(f"memory {growth - 1:+.1%}; {json.dumps(found['as_expected'])}; written to {path}")
    failed = (
        found["crossed"] or found["faults"] or found["still_open"] or found["still_connected"] or growth > MOST_GROWTH
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
