"""From the start of a process to its first answer on the embedded model, beside transformers' own way.

    python benchmarks/startup.py [--repetitions 5]

Each is started as a user would, as a process of its own, and timed until the first response of `evaluate` is in its
file, `decide` has printed its line, `serve` has answered a first chat completion, and `train` has its first step's
rollouts (its reference sampled before); transformers, until `generate` has returned one response. They take turns.
What is imported does not depend on the model; its weights come on top.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from record import shown, spread, surroundings, write_result

TINY = Path(__file__).parents[1] / "src/adaptthink/models/tiny"
PORT = 8123
POLL_SECONDS = 0.005
LIMIT_SECONDS = 120
TRANSFORMERS = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("{TINY}")
model = AutoModelForCausalLM.from_pretrained("{TINY}")
question = [{{"role": "user", "content": "2+3=?"}}]
prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=64, do_sample=True)[0]), flush=True)
"""
TRAIN = """
import sys
from pathlib import Path
from adaptthink.cli.app import main
from adaptthink.training import train as training

training.make_trainable = lambda policy: Path("rolled_out").touch()  # what a training does after its first rollouts
sys.argv = "adaptthink train --recipe toy_cpu --steps 1 --problems-per-step 20 --output t".split()
main()
"""


def is_printed(folder: Path) -> bool:
    """Return whether the process has printed something."""
    return (folder / "out").stat().st_size > 0


def is_sampled(folder: Path) -> bool:
    """Return whether the first response is in the evaluation's folder."""
    samples = folder / "e/samples.jsonl"
    return samples.is_file() and samples.stat().st_size > 0


def is_rolled_out(folder: Path) -> bool:
    """Return whether a training has the rollouts of its first step."""
    return (folder / "rolled_out").exists()


def is_served(_: Path) -> bool:
    """Return whether the server answers a chat completion."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "2+3=?"}], "max_tokens": 64}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        return urllib.request.urlopen(request, timeout=LIMIT_SECONDS).status == 200
    except urllib.error.URLError:
        return False


STARTS: dict[str, tuple[tuple[str, ...], Callable[[Path], bool]]] = {
    "evaluate, first response": (
        ("-m", "adaptthink", "evaluate", "tiny", "--problems-per-level", "1", "--max-think-tokens", "64",
         "--max-no-think-tokens", "16", "--output", "e"),
        is_sampled,
    ),
    "decide": (("-m", "adaptthink", "decide", "tiny", "2+3=?", "--threshold", "0.5"), is_printed),
    "serve, first answer": (("-m", "adaptthink", "serve", "tiny", "--port", str(PORT)), is_served),
    "train, first rollouts": (("-c", TRAIN), is_rolled_out),
    "transformers": (("-c", TRANSFORMERS), is_printed),
}  # fmt: skip


def measure(name: str) -> float:
    """Return the seconds until a process has answered; end it then."""
    arguments, has_answered = STARTS[name]
    with TemporaryDirectory() as folder, (Path(folder) / "out").open("wb") as out:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=out, stderr=subprocess.DEVNULL)
        try:
            while not has_answered(Path(folder)):
                if process.poll() or time.perf_counter() - started > LIMIT_SECONDS:
                    raise SystemExit(f"{name} ended with {process.poll()} before it answered")
                time.sleep(POLL_SECONDS)
            return time.perf_counter() - started
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    """Measure all in turns, after one start of each that brings its files into memory, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    rounds = [{name: measure(name) for name in STARTS} for _ in range(arguments.repetitions + 1)][1:]
    seconds = {name: spread([one[name] for one in rounds]) for name in STARTS}
    ratios = {
        name: spread([one["transformers"] / one[name] for one in rounds]) for name in STARTS if name != "transformers"
    }
    result = surroundings(["torch", "transformers", "tokenizers", "numpy", "scipy"]) | {
        "model": "tiny", "seconds": seconds, "times_as_fast_as_transformers": ratios,
    }  # fmt: skip
    for name, values in seconds.items():
        print(f"{name}: {shown(values)} s")
    print(f"written: {write_result('startup', result)}")


if __name__ == "__main__":
    main()
