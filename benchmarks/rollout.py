r"""Mixed-mode rollouts, tokens per second: our native engine beside transformers, ctranslate2 and vLLM's CPU build.

    python benchmarks/rollout.py [--model tiny|smollm2|random-0.5b|random-1.5b] [--work 16x128,16 ...]
                                 [--repetitions 5] [--seconds S] [--engines 'native;vllm']
                                 [--dtype float32|bfloat16] [--device cpu|cuda]

The same requests for all: each prompt sixteen times, half with the no_think prefix forced and half with the think
prefix, each mode with its max_tokens, T = 0.6, until the end token. `--work 16x128,16` is 16 prompts with max_tokens
128 and 16; `4x512` has 512 for both modes. transformers gets the requests as one batch, and once more as a batch for
each mode, so that none generates past its max_tokens; ctranslate2 as two batches too. Counted are the tokens of the
responses, padding not. Each engine lives in a process of its own and they take turns, one repetition each. vLLM runs in
the environment that scripts/setup_vllm.sh makes. The time that an engine needs to take over changed weights is measured
too (`sync`), and before each repetition the machine, for the share of the roofline.

`--seconds` limits a work: after them no repetition of it begins, and transformers stops a batch. Its rate is then that
of its first tokens, which are its fastest, as its cache is still short.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from models import model_folder
from record import device_name, measure_peak_mb, shown, spread, surroundings, write_result

ROOT = Path(__file__).parents[1]
SAMPLES = 16  # per prompt, half of them in each mode
TEMPERATURE = 0.6
DTYPE = "bfloat16" if "bfloat16" in sys.argv else "float32"  # of native and transformers
DEVICE = "cuda" if "cuda" in sys.argv else "cpu"  # of these two
WORK = {"tiny": "16x128,16", "smollm2": "16x64,16", "random-0.5b": "16x1024,128", "random-1.5b": "16x1024,128"}
WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Work:
    """One mode's share of the requests: prompts with the forced prefix, `each` responses to every one of them."""

    prompts: list[list[int]]
    forced: int
    each: int
    max_tokens: int  # of a response, forced tokens included


def read_work(text: str) -> tuple[int, int, int]:
    """Read 16x128,16 as the number of prompts and max_tokens of think and no_think."""
    prompts, _, limits = text.partition("x")
    think, *others = map(int, limits.split(","))
    return int(prompts), think, *(others or [think])


def make_work(model: str, text: str) -> list[Work]:
    """Return the work of both modes, think first."""
    from transformers import AutoTokenizer  # noqa: PLC0415

    from adaptthink.modes import Mode, encode_prompt, probe  # noqa: PLC0415
    from adaptthink.problems.arithmetic import Split, generate_problems  # noqa: PLC0415

    num_prompts, think, no_think = read_work(text)
    tokenizer = AutoTokenizer.from_pretrained(model_folder(model))
    template = probe(tokenizer)
    problems = generate_problems(-(-num_prompts // 5), seed=0, split=Split.EVALUATION)[:num_prompts]
    prompts = [list(encode_prompt(tokenizer, template, problem.prompt)) for problem in problems]
    parts = [(template.prefix_ids(Mode.THINK), think), (template.prefix_ids(Mode.NO_THINK), no_think)]
    return [
        Work([prompt + list(prefix) for prompt in prompts], len(prefix), SAMPLES // 2, limit) for prefix, limit in parts
    ]


def find_ends(model: str) -> list[int]:
    """Return the ids that end a response."""
    from transformers import AutoConfig, AutoTokenizer  # noqa: PLC0415

    folder = model_folder(model)
    ends = AutoConfig.from_pretrained(folder).eos_token_id
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None})


@dataclass(frozen=True, slots=True)
class Served:
    """An engine: `run` returns the tokens of each response, in the order of the work; `sync` takes over weights."""

    run: Callable[[list[Work], int], list[int]]  # works, seed
    sync: Callable[[], object] = lambda: None
    model: Any = None  # for the roofline, where it is at hand


def native(model: str, ends: list[int], _: float | None) -> Served:
    """Our engine."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    from adaptthink.engines.base import Request  # noqa: PLC0415
    from adaptthink.engines.native import NativeEngine  # noqa: PLC0415

    network = AutoModelForCausalLM.from_pretrained(model_folder(model), dtype=getattr(torch, DTYPE)).to(DEVICE).eval()
    engine = NativeEngine(network, ends)

    def run(works: list[Work], seed: int) -> list[int]:
        requests = [
            Request(
                tuple(ids[: -work.forced]),
                work.max_tokens,
                stream=1000 * number + 100 * part + k,
                prefix_ids=tuple(ids[-work.forced :]),
            )
            for part, work in enumerate(works)
            for number, ids in enumerate(work.prompts)
            for k in range(work.each)
        ]
        done = engine.generate(requests, temperature=TEMPERATURE, seed=seed)
        return [len(completion.token_ids) for completion in done]

    return Served(run, model=network)


def one_batch(works: list[Work]) -> list[list[Work]]:
    """Put the modes into one batch: the larger max_tokens holds for all."""
    return [works]


def by_mode(works: list[Work]) -> list[list[Work]]:
    """Give each mode a batch of its own."""
    return [[work] for work in works]


def transformers(
    model: str,
    ends: list[int],
    seconds: float | None,
    batches: Callable[[list[Work]], list[list[Work]]] = one_batch,
) -> Served:
    """`generate` of transformers, left-padded. Tokens past a mode's max_tokens are not counted."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    network = AutoModelForCausalLM.from_pretrained(model_folder(model), dtype=getattr(torch, DTYPE)).to(DEVICE).eval()

    @torch.inference_mode()
    def run(works: list[Work], seed: int) -> list[int]:
        torch.manual_seed(seed)
        lengths: list[int] = []
        for batch in batches(works):
            rows = [ids for work in batch for ids in work.prompts for _ in range(work.each)]
            forced = [work.forced for work in batch for _ in work.prompts for _ in range(work.each)]
            limits = [work.max_tokens - work.forced for work in batch for _ in work.prompts for _ in range(work.each)]
            width = max(map(len, rows))
            ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=DEVICE)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=DEVICE)
            out = network.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0,
                max_new_tokens=max(limits), max_time=seconds, eos_token_id=ends, pad_token_id=ends[0],
            )[:, width:].cpu()  # fmt: skip
            ended = torch.isin(out, torch.tensor(ends))
            first = torch.where(ended.any(1), ended.int().argmax(1) + 1, out.shape[1])
            lengths += (torch.minimum(first, torch.tensor(limits)) + torch.tensor(forced)).tolist()
        return lengths

    return Served(run, model=network)


def ctranslate2(model: str, ends: list[int], _: float | None) -> Served:
    """ctranslate2; it converts a model from disk, and gives no log-probability of single tokens."""
    import ctranslate2 as library  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    folder = tempfile.mkdtemp()
    tokenizer = AutoTokenizer.from_pretrained(model_folder(model))
    state: dict[str, Any] = {}

    def sync() -> None:
        library.converters.TransformersConverter(str(model_folder(model))).convert(folder, force=True)
        state["generator"] = library.Generator(folder, device="cpu", compute_type="float32", intra_threads=2)

    def run(works: list[Work], seed: int) -> list[int]:
        library.set_random_seed(seed)
        lengths: list[int] = []
        for work in works:
            rows = [tokenizer.convert_ids_to_tokens(ids) for ids in work.prompts for _ in range(work.each)]
            results = state["generator"].generate_batch(
                rows, max_length=work.max_tokens - work.forced, sampling_topk=0, sampling_temperature=TEMPERATURE,
                include_prompt_in_result=False, end_token=ends, return_end_token=True, max_batch_size=len(rows),
            )  # fmt: skip
            lengths += [len(result.sequences_ids[0]) + work.forced for result in results]
        return lengths

    sync()
    return Served(run, sync)


def vllm(model: str, ends: list[int], _: float | None) -> Served:
    """vLLM, with log-probabilities of the sampled tokens as training needs them."""
    import os  # noqa: PLC0415

    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "ERROR"}
    from vllm import LLM, SamplingParams, TokensPrompt  # noqa: PLC0415

    folder = str(model_folder(model))
    engine = LLM(
        model=folder, dtype="float32", logprobs_mode="processed_logprobs", max_model_len=256, enforce_eager=True,
        max_num_seqs=512, disable_log_stats=True,
    )  # fmt: skip

    def run(works: list[Work], seed: int) -> list[int]:
        prompts, params, forced = [], [], []
        for part, work in enumerate(works):
            for number, ids in enumerate(work.prompts):
                for k in range(work.each):
                    prompts.append(TokensPrompt(prompt_token_ids=ids))
                    params.append(SamplingParams(
                        temperature=TEMPERATURE, max_tokens=work.max_tokens - work.forced, stop_token_ids=ends,
                        logprobs=0, seed=seed * 100_000 + part * 50_000 + number * SAMPLES + k, detokenize=False,
                        flat_logprobs=True,
                    ))  # fmt: skip
                    forced.append(work.forced)
        done = engine.generate(prompts, params, use_tqdm=False)
        return [own + len(output.outputs[0].token_ids) for own, output in zip(forced, done, strict=True)]

    def sync() -> None:
        engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        engine.reset_prefix_cache()

    return Served(run, sync)


ENGINES = {
    "native": native,
    "transformers": transformers,
    "transformers, by mode": partial(transformers, batches=by_mode),
    "ctranslate2": ctranslate2,
    "vllm": vllm,
}


def serve(name: str, model: str, seconds: float | None) -> None:
    """Do one repetition of the work on each line of standard input; answer with a line of JSON each."""
    engine = ENGINES[name](model, find_ends(model), seconds)
    print("ready", flush=True)
    warm: set[str] = set()
    for seed, line in enumerate(sys.stdin, start=1):
        works = make_work(model, line.strip())
        if line not in warm:
            engine.run([replace(work, max_tokens=min(work.max_tokens, WARM_UP_TOKENS)) for work in works], 0)
            warm.add(line)
        roofline = make_roofline(engine.model, works) if engine.model else None
        started = time.perf_counter()
        lengths = engine.run(works, seed)
        ran = time.perf_counter()
        engine.sync()
        outcome = {"tokens": sum(lengths), "seconds": ran - started, "sync": time.perf_counter() - ran}
        outcome["peak_mb"] = measure_peak_mb(DEVICE)
        if roofline:
            outcome |= roofline(lengths)
        print(json.dumps(outcome), flush=True)


def make_roofline(model: Any, works: list[Work]) -> Callable[[list[int]], dict[str, float]]:
    """Measure the machine; return what gives its figures and the least seconds for responses of some lengths."""
    import torch  # noqa: PLC0415

    from adaptthink.planning.roofline import compute_generation_bound, measure_machine, read_shape  # noqa: PLC0415

    dtype = getattr(torch, DTYPE)
    machine, shape = measure_machine(model.device, dtype), read_shape(model, dtype)
    prompts = [ids[: -work.forced] for work in works for ids in work.prompts for _ in range(work.each)]

    def compute(lengths: list[int]) -> dict[str, float]:
        bound = compute_generation_bound(shape, machine, prompts, [range(length) for length in lengths])
        return {
            "gflops_per_second": machine.flops_per_second / 1e9,
            "gbytes_per_second": machine.bytes_per_second / 1e9,
            "roofline_seconds": bound,
        }

    return compute


def find_log(name: str) -> Path:
    """Return where an engine's errors go."""
    return Path(tempfile.gettempdir()) / f"rollout-{name.replace(' ', '-')}.log"


def start(name: str, options: list[str]) -> subprocess.Popen[str]:
    """Start an engine's process."""
    python = ROOT / ".venv-vllm/bin/python" if name == "vllm" else sys.executable
    with find_log(name).open("w") as errors:
        return subprocess.Popen(
            [python, __file__, "--serve", name, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def find_line(process: subprocess.Popen[str], name: str, start: str) -> str | None:
    """Return the next line of an engine that starts as it should, as engines print others; None if it ended early."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line
    print(f"{name} ended early\n{find_log(name).read_text(errors='replace')[-1000:]}", flush=True)
    return None


def measure(
    work: str, processes: dict[str, subprocess.Popen[str]], repetitions: int, seconds: float | None
) -> dict[str, list[dict[str, float]]]:
    """Let the engines take turns with a work; return the outcomes of each one's repetitions.

    An engine that ends early, such as for want of memory, is left out of what follows.
    """
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in processes}
    started = time.perf_counter()
    for repetition in range(repetitions):
        if repetition and seconds and time.perf_counter() - started > seconds:
            break
        for name in list(processes) if repetition % 2 else list(processes)[::-1]:
            print(work, file=processes[name].stdin, flush=True)
            line = find_line(processes[name], name, "{")
            if line is None:
                del processes[name]
                continue
            row = json.loads(line)
            rows[name].append(row)
            rate = row["tokens"] / row["seconds"]
            print(f"{work} {repetition + 1}/{repetitions} {name}: {rate:.0f} tokens/s", flush=True)
    return {name: own for name, own in rows.items() if own}


def summarize(work: str, rows: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the figures of a work, by engine; ratios are of the repetitions that stood beside each other."""
    rates = {name: [row["tokens"] / row["seconds"] for row in own] for name, own in rows.items()}
    synced = {name: [row["tokens"] / (row["seconds"] + row["sync"]) for row in own] for name, own in rows.items()}
    measured = [name for name in rows if "roofline_seconds" in rows[name][0]]
    num_prompts, *max_tokens = read_work(work)
    figures: dict[str, Any] = {
        "rows": num_prompts * SAMPLES,
        "max_tokens": max_tokens,
        "tokens": {name: spread([row["tokens"] for row in own]) for name, own in rows.items()},
        "tokens_per_second": {name: spread(own) for name, own in rates.items()},
        "roofline_share": {
            name: spread([row["roofline_seconds"] / row["seconds"] for row in rows[name]]) for name in measured
        },
        "machine": {
            unit: spread([row[unit] for name in measured for row in rows[name]])
            for unit in ("gflops_per_second", "gbytes_per_second")
            if measured
        },
        "sync_seconds": {name: spread([row["sync"] for row in own]) for name, own in rows.items()},
        "peak_mb": {name: own[-1]["peak_mb"] for name, own in rows.items()},
    }
    for key, own in (("native_over", rates), ("native_over_with_sync", synced)):
        figures[key] = {
            name: spread([ours / other for ours, other in zip(own["native"], own[name], strict=False)])
            for name in rows
            if name != "native" and "native" in rows
        }
    return figures


def main() -> None:
    """Run the engines in turns and write the result, after each work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=WORK, default="tiny")
    parser.add_argument("--work", nargs="+", help="PROMPTSxTHINK[,NO_THINK]")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--engines", default=";".join(ENGINES), help="joined by ;")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--serve", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.model, arguments.seconds)
        return
    model_folder(arguments.model)  # is made before there are two processes that would make it
    options = ["--model", arguments.model, "--dtype", DTYPE, "--device", DEVICE]
    options += ["--seconds", str(arguments.seconds)] if arguments.seconds else []
    processes = {}
    for name in arguments.engines.split(";"):  # one after the other, so that none is timed while another loads
        process = start(name, options)
        if find_line(process, name, "ready"):
            processes[name] = process
    result = surroundings(["torch", "transformers"]) | {
        "model": arguments.model,
        "dtype": DTYPE,
        "device": device_name(DEVICE),
        "seconds": arguments.seconds,
        "works": {},
    }
    name = f"rollout-{arguments.model}-{DTYPE}" + ("-gpu" if DEVICE == "cuda" else "")
    for work in arguments.work or [WORK[arguments.model]]:
        rows = measure(work, processes, arguments.repetitions, arguments.seconds)
        if not rows:
            raise SystemExit("no engine is left")
        figures = summarize(work, rows)
        result["works"][work] = figures
        for engine, rate in figures["tokens_per_second"].items():
            over, share = figures["native_over"].get(engine), figures["roofline_share"].get(engine)
            print(
                f"{work} {engine:22}{shown(rate, '.0f')} tokens/s"
                + (f", {shown(share, '.1%')} of the roofline" if share else "")
                + (f"; native is {shown(over, '.2f')} times as fast" if over else "")
            )
        print(f"written to {write_result(name, result)}", flush=True)
    for process in processes.values():
        process.kill()


if __name__ == "__main__":
    main()
