"""Time to first token and throughput of `adaptthink serve` under concurrent streams; two versions in one run.

    python benchmarks/serve.py [--model tiny] [--streams 1 8 32] [--old PATH/src] [--json FILE]

`--old` is the source folder of another version, a `git worktree` for example. Both servers run at the same time, and
take turns round by round, so that a busy machine is busy for both; figures are medians over the rounds, the ratio that
of their medians. Each client sends one streaming request after another: modes and lengths differ, and one request in
eight is long, which is what others must not wait for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2 as httpx
import psutil

HERE = Path(__file__).resolve().parents[1] / "src"


@dataclass(frozen=True)
class Round:
    """What one round of requests took."""

    first_token_ms: float  # median
    first_token_ms_p95: float
    short_ms: float  # median time to the end of requests that do not think
    tokens_per_second: float
    tokens_per_cpu_second: float  # of the server's processor time


@contextmanager
def serving(source: Path, model: str, threads: int):
    """Run a server of this source; yields its URL and its process."""
    command = [sys.executable, "-m", "adaptthink", "serve", model, "--port", "0", "--max-think-tokens", "256"]
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        line = next(line for line in process.stdout if "http://" in line)
        yield "http://" + line.split("http://")[1].strip().removesuffix("/v1"), psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


async def stream(client: httpx.AsyncClient, url: str, name: str, number: int) -> tuple[float, float, int, bool]:
    """Return seconds to the first text and to the end, the tokens, and whether it was a short one."""
    long, short = number % 8 == 0, number % 2 == 1
    body = {
        "model": name + (":no_think" if short else ":think"),
        "messages": [{"role": "user", "content": f"{number % 89 + 10}+{number % 7 + 1}-3=?"}],
        "temperature": 4.0 if long else 0.0,  # at this temperature the embedded model writes until its limit
        "max_tokens": 256 if long else 128,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, tokens = time.perf_counter(), None, 0
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            deltas = [choice["delta"] for choice in chunk["choices"]]
            if first is None and any(delta.get("content") or delta.get("reasoning") for delta in deltas):
                first = time.perf_counter() - began
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    ended = time.perf_counter() - began
    return first or ended, ended, tokens, short


async def measure(url: str, process: psutil.Process, name: str, streams: int, requests: int) -> Round:
    """Send `requests` from each of `streams` clients."""
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:

        async def run(index: int) -> list[tuple[float, float, int, bool]]:
            return [await stream(client, url, name, index + streams * turn) for turn in range(requests)]

        began, used = time.perf_counter(), sum(process.cpu_times()[:2])
        done = [one for each in await asyncio.gather(*map(run, range(streams))) for one in each]
        seconds, used = time.perf_counter() - began, sum(process.cpu_times()[:2]) - used
    firsts = sorted(first for first, *_ in done)
    return Round(
        1000 * statistics.median(firsts),
        1000 * firsts[int(0.95 * (len(firsts) - 1))],
        1000 * statistics.median(ended for _, ended, _, short in done if short),
        sum(tokens for _, _, tokens, _ in done) / seconds,
        sum(tokens for _, _, tokens, _ in done) / used,
    )


def middle(rounds: list[Round]) -> Round:
    """Return the medians of several rounds."""
    return Round(*(statistics.median(values) for values in zip(*(asdict(one).values() for one in rounds), strict=True)))


def main() -> None:
    """Print a table, one line for each number of streams and version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=8, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--old", type=Path, help="source folder of another version")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sources = {"new": HERE} | ({"old": options.old.resolve()} if options.old else {})
    results = {}
    with ExitStack() as stack:
        urls = {
            version: stack.enter_context(serving(source, options.model, options.threads))
            for version, source in sources.items()
        }
        name = Path(options.model).name
        print(f"{'streams':>7} {'':4} {'first token':>12} {'its p95':>9} {'short answer':>13}", end="")
        print(f" {'tokens/s':>9} {'tokens/cpu s':>13}")
        for streams in options.streams:
            rounds: dict[str, list[Round]] = {version: [] for version in urls}
            for _ in range(options.rounds):
                for version, (url, process) in urls.items():
                    rounds[version].append(asyncio.run(measure(url, process, name, streams, options.requests)))
            found = results[streams] = {version: middle(each) for version, each in rounds.items()}
            for version, one in found.items():
                print(
                    f"{streams:>7} {version:4} {one.first_token_ms:9.1f} ms {one.first_token_ms_p95:6.0f} ms"
                    f" {one.short_ms:10.1f} ms {one.tokens_per_second:9.0f} {one.tokens_per_cpu_second:13.0f}"
                )
            if "old" in found:
                pairs = zip(asdict(found["new"]).values(), asdict(found["old"]).values(), strict=True)
                ratios = "  ".join(f"{new / old:.2f}" for new, old in pairs)
                print(
                    f"{streams:>7} new/old: first token, its p95, short answer, tokens/s, tokens/cpu s: {ratios}",
                    flush=True,
                )
    if options.json:
        written = {str(streams): {v: asdict(one) for v, one in found.items()} for streams, found in results.items()}
        options.json.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
