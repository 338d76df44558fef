r"""Peak memory of pre-sampling against the number of samples: two servers that answer at once, in this process.

    python benchmarks/presample_memory.py [--quick]

Each point is a process of its own, so that its peak is its own. Calls go through the real client, but end in a function
instead of a network. One problem has 16 samples. The problems lie in a JSONL file and the store is a file, as they do
in a job. The last point takes most of an hour. Writes results/presample-memory-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import surroundings, write_result

SAMPLES = 16
POINTS = (1_000, 10_000, 100_000, 1_000_000)


def run_point(num_samples: int) -> dict[str, Any]:
    """Measure one point in this process."""
    import httpx2 as httpx  # noqa: PLC0415

    from adaptthink.api import make_sampler, sample_reference  # noqa: PLC0415
    from adaptthink.callbacks import Callback  # noqa: PLC0415
    from adaptthink.config.resolve import check  # noqa: PLC0415
    from adaptthink.config.schema import PresampleConfig  # noqa: PLC0415
    from adaptthink.engines import fleet  # noqa: PLC0415
    from adaptthink.engines.openai import Probe  # noqa: PLC0415
    from adaptthink.models.loading import load_policy  # noqa: PLC0415
    from adaptthink.training.data import find_problems  # noqa: PLC0415

    policy = load_policy("tiny")
    answer = [*policy.tokenizer.encode("</think>\\boxed{7}", add_special_tokens=False), policy.eos_ids[0]]
    choice = {"token_ids": answer, "finish_reason": "stop"}
    choice["logprobs"] = {"token_logprobs": [-0.5] * len(answer), "top_logprobs": [{}] * len(answer)}
    body = json.dumps({"choices": [choice]}).encode()

    async def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body)

    async def open_at_once(self: fleet.Fleet, server: fleet.Server) -> fleet.OpenAIEngine:
        server.engine = fleet.OpenAIEngine(
            server.url,
            policy.eos_ids,
            model="tiny",
            capacity_tokens=10**6,
            max_concurrent_sequences=self.max_concurrent_sequences,
        )
        return server.engine

    def make_client(url: str, _: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, transport=httpx.MockTransport(respond))

    fleet.make_client = make_client
    fleet.Fleet._open = open_at_once
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problems.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number in range(num_samples // SAMPLES + 1):
                prompt = f"Problem {number}: what is {number} + {number % 97}?"
                file.write(json.dumps({"prompt": prompt, "answer": str(number + number % 97)}) + "\n")
        config = check(
            PresampleConfig, {"problems": str(path), "reference_samples": SAMPLES, "max_concurrent_sequences": 256}
        )
        problems = find_problems(config.problems, None, config).problems
        engine = fleet.open_fleet(
            ["http://one", "http://two"],
            policy.eos_ids,
            name="tiny",
            max_concurrent_sequences=256,
            probe=Probe((), (), ()),
        )
        before, started = peak_mb(), time.perf_counter()
        store = Path(folder) / "reference.jsonl"
        reference = sample_reference(
            policy, make_sampler(policy, config, engine=engine), problems, config, store, Callback()
        )
        return {
            "samples": len(reference) * SAMPLES,
            "seconds": round(time.perf_counter() - started, 1),
            "before_mb": round(before, 1),
            "peak_mb": round(peak_mb(), 1),
        }


def peak_mb() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure all points, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first two points; writes no result")
    parser.add_argument("--point", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(run_point(arguments.point)))
        return
    rows = []
    for point in POINTS[:2] if arguments.quick else POINTS:
        command = [sys.executable, __file__, "--point", str(point)]
        out = subprocess.run(command, capture_output=True, text=True, check=False)
        if out.returncode:
            raise SystemExit(f"{point} samples failed:\n{out.stderr[-2000:]}")
        rows.append(json.loads(out.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    if not arguments.quick:
        result = surroundings(["torch", "httpx2"]) | {"points": rows}
        print(f"written to {write_result('presample-memory', result)}")


if __name__ == "__main__":
    main()
