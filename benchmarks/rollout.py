r"""Mixed-mode rollouts, tokens per second: our native engine beside transformers, ctranslate2 and vLLM's CPU build.

    python benchmarks/rollout.py [--model tiny|smollm2] [--prompts 16] [--repetitions 5] [--engines 'native;vllm']
                                 [--dtype float32|bfloat16] [--device cpu|cuda]

The same requests for all: each prompt sixteen times, half with the no_think prefix forced and half with the think
prefix, each mode with its cap, T = 0.6, until the end token. transformers gets them as one batch, and once more as a
batch for each mode, so that none generates past its cap; ctranslate2 as two batches too. Counted are the tokens of the
responses, padding not. Each engine lives in a process of its own and they take turns, one repetition each. vLLM runs in
the environment that scripts/setup_vllm.sh makes. The time that an engine needs to take over changed weights is measured
too (`sync`).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from models import model_folder
from record import device_name, shown, spread, surroundings, write_result

ROOT = Path(__file__).parents[1]
SAMPLES = 16  # per prompt, half of them in each mode
TEMPERATURE = 0.6
DTYPE = "bfloat16" if "bfloat16" in sys.argv else "float32"  # of native and transformers
DEVICE = "cuda" if "cuda" in sys.argv else "cpu"  # of these two
MAX_TOKENS = {"tiny": (128, 16), "smollm2": (64, 16), "random-0.5b": (1024, 128), "random-1.5b": (1024, 128)}  # by mode


@dataclass(frozen=True, slots=True)
class Work:
    """One mode's share of the requests: prompts with the forced prefix, `each` responses to every one of them."""

    prompts: list[list[int]]
    forced: int
    each: int
    cap: int  # of a response, forced tokens included


def make_work(model: str, num_prompts: int) -> tuple[list[Work], list[int]]:
    """Return the work of both modes, the longer one first, and the ids that end a response."""
    from transformers import AutoConfig, AutoTokenizer  # noqa: PLC0415

    from adaptthink.modes import Mode, encode_prompt, probe  # noqa: PLC0415
    from adaptthink.problems.arithmetic import Split, generate_problems  # noqa: PLC0415

    folder = model_folder(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = probe(tokenizer)
    problems = generate_problems(-(-num_prompts // 5), seed=0, split=Split.EVALUATION)[:num_prompts]
    prompts = [list(encode_prompt(tokenizer, template, problem.prompt)) for problem in problems]
    think, no_think = MAX_TOKENS[model]
    parts = [(template.prefix_ids(Mode.THINK), think), (template.prefix_ids(Mode.NO_THINK), no_think)]
    ends = AutoConfig.from_pretrained(folder).eos_token_id
    return (
        [Work([prompt + list(prefix) for prompt in prompts], len(prefix), SAMPLES // 2, cap) for prefix, cap in parts],
        sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}),
    )


Run = Callable[[int], int]  # seed → tokens generated
Sync = Callable[[], object]  # take over changed weights


def native(model: str, works: list[Work], ends: list[int]) -> tuple[Run, Sync]:
    """Our engine."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    from adaptthink.engines.base import Request  # noqa: PLC0415
    from adaptthink.engines.native import NativeEngine  # noqa: PLC0415

    engine = NativeEngine(
        AutoModelForCausalLM.from_pretrained(model_folder(model), dtype=getattr(torch, DTYPE)).eval(), ends
    )
    requests = [
        Request(tuple(ids[: -work.forced]), work.cap, 1000 * number + 100 * part + k, tuple(ids[-work.forced :]))
        for part, work in enumerate(works)
        for number, ids in enumerate(work.prompts)
        for k in range(work.each)
    ]

    def run(seed: int) -> int:
        done = engine.generate(requests, temperature=TEMPERATURE, seed=seed)
        return sum(len(completion.token_ids) for completion in done)

    return run, lambda: None


def one_batch(works: list[Work]) -> list[list[Work]]:
    """Put the modes into one batch: the larger cap holds for all."""
    return [works]


def by_mode(works: list[Work]) -> list[list[Work]]:
    """Give each mode a batch of its own."""
    return [[work] for work in works]


def transformers(
    model: str, works: list[Work], ends: list[int], batches: Callable[[list[Work]], list[list[Work]]] = one_batch
) -> tuple[Run, Sync]:
    """`generate` of transformers, left-padded. Tokens past a mode's cap are not counted."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    network = AutoModelForCausalLM.from_pretrained(model_folder(model), dtype=getattr(torch, DTYPE)).to(DEVICE).eval()

    @torch.inference_mode()
    def run(seed: int) -> int:
        torch.manual_seed(seed)
        tokens = 0
        for batch in batches(works):
            rows = [ids for work in batch for ids in work.prompts for _ in range(work.each)]
            left = torch.tensor(
                [work.cap - work.forced for work in batch for _ in work.prompts for _ in range(work.each)]
            )
            width = max(map(len, rows))
            ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=DEVICE)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=DEVICE)
            out = network.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0,
                max_new_tokens=int(left.max()), eos_token_id=ends, pad_token_id=ends[0],
            )[:, width:].cpu()  # fmt: skip
            ended = torch.isin(out, torch.tensor(ends))
            first = torch.where(ended.any(1), ended.int().argmax(1) + 1, out.shape[1])
            tokens += int(torch.minimum(first, left).sum()) + sum(
                work.forced * len(work.prompts) * work.each for work in batch
            )
        return tokens

    return run, lambda: None


def ctranslate2(model: str, works: list[Work], ends: list[int]) -> tuple[Run, Sync]:
    """ctranslate2; it converts a model from disk, and gives no log-probability of single tokens."""
    import ctranslate2 as library  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    folder = tempfile.mkdtemp()
    tokenizer = AutoTokenizer.from_pretrained(model_folder(model))
    state: dict[str, Any] = {}

    def sync() -> None:
        library.converters.TransformersConverter(str(model_folder(model))).convert(folder, force=True)
        state["generator"] = library.Generator(folder, device="cpu", compute_type="float32", intra_threads=2)

    def run(seed: int) -> int:
        library.set_random_seed(seed)
        tokens = 0
        for work in works:
            rows = [tokenizer.convert_ids_to_tokens(ids) for ids in work.prompts for _ in range(work.each)]
            results = state["generator"].generate_batch(
                rows, max_length=work.cap - work.forced, sampling_topk=0, sampling_temperature=TEMPERATURE,
                include_prompt_in_result=False, end_token=ends, return_end_token=True, max_batch_size=len(rows),
            )  # fmt: skip
            tokens += sum(len(result.sequences_ids[0]) + work.forced for result in results)
        return tokens

    sync()
    return run, sync


def vllm(model: str, works: list[Work], ends: list[int]) -> tuple[Run, Sync]:
    """vLLM, with log-probabilities of the sampled tokens as training needs them."""
    import os  # noqa: PLC0415

    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "ERROR"}
    from vllm import LLM, SamplingParams, TokensPrompt  # noqa: PLC0415

    folder = str(model_folder(model))
    engine = LLM(
        model=folder, dtype="float32", logprobs_mode="processed_logprobs", max_model_len=256, enforce_eager=True,
        max_num_seqs=512, disable_log_stats=True,
    )  # fmt: skip

    def run(seed: int) -> int:
        prompts, params = [], []
        for part, work in enumerate(works):
            for number, ids in enumerate(work.prompts):
                for k in range(work.each):
                    prompts.append(TokensPrompt(prompt_token_ids=ids))
                    params.append(SamplingParams(
                        temperature=TEMPERATURE, max_tokens=work.cap - work.forced, stop_token_ids=ends, logprobs=0,
                        seed=seed * 100_000 + part * 50_000 + number * SAMPLES + k, detokenize=False,
                        flat_logprobs=True,
                    ))  # fmt: skip
        done = engine.generate(prompts, params, use_tqdm=False)
        forced = sum(work.forced * len(work.prompts) * work.each for work in works)
        return forced + sum(len(output.outputs[0].token_ids) for output in done)

    def sync() -> None:
        engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        engine.reset_prefix_cache()

    return run, sync


ENGINES = {
    "native": native,
    "transformers": transformers,
    "transformers, by mode": partial(transformers, batches=by_mode),
    "ctranslate2": ctranslate2,
    "vllm": vllm,
}


def serve(name: str, model: str, num_prompts: int) -> None:
    """Do one repetition for every line on standard input; answer with a line of JSON each."""
    works, ends = make_work(model, num_prompts)
    run, sync = ENGINES[name](model, works, ends)
    run(0)
    print("ready", flush=True)
    for seed, _ in enumerate(sys.stdin, start=1):
        started = time.perf_counter()
        tokens = run(seed)
        ran = time.perf_counter()
        sync()
        outcome = {"tokens": tokens, "seconds": ran - started, "sync": time.perf_counter() - ran}
        outcome["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(outcome), flush=True)


def start(name: str, model: str, num_prompts: int) -> subprocess.Popen[str]:
    """Start an engine's process and wait until it has done its first repetition."""
    python = ROOT / ".venv-vllm/bin/python" if name == "vllm" else sys.executable
    command = [python, __file__, "--serve", name, "--model", model, "--prompts", str(num_prompts)]
    command += ["--dtype", DTYPE, "--device", DEVICE]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    answer(process, "ready")
    return process


def answer(process: subprocess.Popen[str], start: str) -> str:
    """Return the next line that starts as it should; engines print lines of their own."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line
    raise SystemExit(f"an engine ended early: {process.args}")


def main() -> None:
    """Run the engines in turns and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MAX_TOKENS, default="tiny")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--engines", default=";".join(ENGINES), help="joined by ;")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--serve", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.model, arguments.prompts)
        return
    names = arguments.engines.split(";")
    processes = {name: start(name, arguments.model, arguments.prompts) for name in names}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for repetition in range(arguments.repetitions):
        for name in names if repetition % 2 else names[::-1]:
            print("go", file=processes[name].stdin, flush=True)
            rows[name].append(json.loads(answer(processes[name], "{")))
            rate = rows[name][-1]["tokens"] / rows[name][-1]["seconds"]
            print(f"{repetition + 1}/{arguments.repetitions} {name}: {rate:.0f} tokens/s", flush=True)
    for process in processes.values():
        process.kill()
    rates = {name: [row["tokens"] / row["seconds"] for row in rows[name]] for name in names}
    synced = {name: [row["tokens"] / (row["seconds"] + row["sync"]) for row in rows[name]] for name in names}
    result = surroundings(["torch", "transformers"]) | {
        "model": arguments.model,
        "dtype": arguments.dtype,
        "device": device_name(DEVICE),
        "rows": arguments.prompts * SAMPLES,
        "max_tokens": MAX_TOKENS[arguments.model],
        "tokens": {name: spread([row["tokens"] for row in rows[name]]) for name in names},
        "tokens_per_second": {name: spread(rates[name]) for name in names},
        "sync_seconds": {name: spread([row["sync"] for row in rows[name]]) for name in names},
        "peak_mb": {name: rows[name][-1]["peak_mb"] for name in names},
        "native_over": {
            name: spread([ours / other for ours, other in zip(rates["native"], rates[name], strict=True)])
            for name in names
        },
        "native_over_with_sync": {
            name: spread([ours / other for ours, other in zip(synced["native"], synced[name], strict=True)])
            for name in names
        },
    }
    for name in names:
        print(
            f"{name:13}{shown(result['tokens_per_second'][name], '.0f')} tokens/s, native is "
            f"{shown(result['native_over'][name], '.2f')} times as fast"
        )
    print(f"written to {write_result(f'rollout-{arguments.model}-{arguments.dtype}', result)}")


if __name__ == "__main__":
    main()
