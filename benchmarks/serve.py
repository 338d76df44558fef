"""Time to first token and throughput of `adaptthink serve` under concurrent streams, beside other servers.

    python benchmarks/serve.py [--model tiny] [--streams 1 8 32 100] [--old PATH/src] [--json FILE]
    python benchmarks/serve.py --peers transformers vllm --peer-python .venv-vllm/bin/python

`--old` is the source folder of another version, a `git worktree` for example. All servers run at the same time, and
take turns round by round, so that a busy machine is busy for all; figures are medians over the rounds, the ratios those
of their medians. Each client sends one streaming request after another, and one in eight is long, which is what others
must not wait for. Half of the requests forbid thinking; beside peers, which know no modes, all leave it to the model.
With peers a result is stored.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import httpx2 as httpx
import psutil
from record import surroundings, write_result

from adaptthink.models.loading import find_model

START_SECONDS = 300
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


@contextmanager
def serving_peer(name: str, model: Path, python: Path):
    """Run another server of the same model, in float32, on one thread; yields its URL and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if name == "vllm":
        command = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", "float32"]
        command += ["--max-model-len", "512", "--gpu-memory-utilization", "0.1", "--max-num-seqs", "128"]
        command += ["--enforce-eager"]
    else:
        code = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
        command = ["-c", code, "serve", str(model), "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1"]
        command += ["--continuous-batching"] if name == "transformers-batching" else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [str(python), *command, "--port", str(port)],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until_up(url, process, log)
            yield url, psutil.Process(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def wait_until_up(url: str, process: subprocess.Popen, log: IO[bytes]) -> None:
    """Wait until a server answers; ends the program with its log where it does not come up."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    log.seek(0)
    raise SystemExit(f"{url} did not come up:\n{log.read().decode()[-3000:]}")


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process and of what it started."""
    return sum(sum(one.cpu_times()[:2]) for one in [process, *process.children(recursive=True)])


async def stream(
    client: httpx.AsyncClient, url: str, name: str, number: int, *, plain: bool
) -> tuple[float, float, int, bool]:
    """Return seconds to the first text and to the end, the tokens, and whether it was a short one."""
    long, short = number % 8 == 0, number % 2 == 1
    body = {
        "model": name if plain else name + (":no_think" if short else ":think"),
        "messages": [{"role": "user", "content": f"{number % 89 + 10}+{number % 7 + 1}-3=?"}],
        "temperature": 4.0 if long else 0.0,  # at this temperature the embedded model writes until its limit
        "max_tokens": 256 if long else 128,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, tokens, pieces = time.perf_counter(), None, 0, 0
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            deltas = [choice["delta"] for choice in chunk["choices"]]
            text = any(delta.get("content") or delta.get("reasoning") for delta in deltas)
            if first is None and text:
                first = time.perf_counter() - began
            pieces += text
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    ended = time.perf_counter() - began
    return first or ended, ended, tokens or pieces, short  # a server without usage: a piece is a token


async def measure(url: str, process: psutil.Process, name: str, streams: int, requests: int, *, plain: bool) -> Round:
    """Send `requests` from each of `streams` clients."""
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:

        async def run(index: int) -> list[tuple[float, float, int, bool]]:
            return [await stream(client, url, name, index + streams * turn, plain=plain) for turn in range(requests)]

        began, used = time.perf_counter(), cpu_seconds(process)
        done = [one for each in await asyncio.gather(*map(run, range(streams))) for one in each]
        seconds, used = time.perf_counter() - began, cpu_seconds(process) - used
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
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 100])
    parser.add_argument("--requests", type=int, default=8, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--old", type=Path, help="source folder of another version")
    parser.add_argument("--peers", nargs="+", default=[], choices=("transformers", "transformers-batching", "vllm"))
    parser.add_argument("--peer-python", type=Path, default=Path(".venv-vllm/bin/python"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sources = {"new": HERE} | ({"old": options.old.resolve()} if options.old else {})
    results: dict[int, dict[str, Round]] = {}
    with ExitStack() as stack:
        urls = {
            version: stack.enter_context(serving(source, options.model, options.threads))
            for version, source in sources.items()
        }
        names = dict.fromkeys(urls, Path(options.model).name)
        folder = Path(find_model(options.model)).resolve()
        for peer in options.peers:
            urls[peer] = stack.enter_context(serving_peer(peer, folder, options.peer_python))
            names[peer] = str(folder)
        print(f"{'streams':>7} {'':21} {'first token':>12} {'its p95':>9} {'short answer':>13}", end="")
        print(f" {'tokens/s':>9} {'tokens/cpu s':>13}")
        for streams in options.streams:
            rounds: dict[str, list[Round]] = {version: [] for version in urls}
            for _ in range(options.rounds):
                for version, (url, process) in urls.items():
                    work = measure(url, process, names[version], streams, options.requests, plain=bool(options.peers))
                    rounds[version].append(asyncio.run(work))
            found = results[streams] = {version: middle(each) for version, each in rounds.items()}
            for version, one in found.items():
                print(
                    f"{streams:>7} {version:21} {one.first_token_ms:9.1f} ms {one.first_token_ms_p95:6.0f} ms"
                    f" {one.short_ms:10.1f} ms {one.tokens_per_second:9.0f} {one.tokens_per_cpu_second:13.0f}"
                )
            for version in [*found][1:]:
                pairs = zip(asdict(found["new"]).values(), asdict(found[version]).values(), strict=True)
                ratios = "  ".join(f"{new / old:.2f}" for new, old in pairs)
                print(f"{streams:>7} new/{version}: in the same order: {ratios}", flush=True)
    written = {str(streams): {v: asdict(one) for v, one in found.items()} for streams, found in results.items()}
    if options.json:
        options.json.write_text(json.dumps(written, indent=1))
    if options.peers:
        about = surroundings(["adaptthink", "torch"]) | {"peer_versions": read_versions(options.peer_python)}
        about |= {"model": options.model, "threads": options.threads, "rounds": options.rounds}
        write_result("serve", about | {"requests": options.requests, "streams": written})


def read_versions(python: Path) -> dict[str, str]:
    """Return the versions of what the peers' environment runs."""
    names = ("torch", "transformers", "vllm")
    code = f"import json, {', '.join(names)}; print(json.dumps([m.__version__ for m in ({', '.join(names)})]))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(names, json.loads(found.stdout.splitlines()[-1]), strict=True))


if __name__ == "__main__":
    main()
