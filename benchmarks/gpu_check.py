r"""What this project does on a GPU, in one command of at most nine minutes; scripts/gpu_check.sh starts it.

    python benchmarks/gpu_check.py [--device cuda|cpu] [--quick] [--output FOLDER] [--seconds 530] [--parts tests demo]

The parts run one after the other, the most valuable first, each in a process of its own and with a limit on its time:

* tests: `pytest -m gpu` against transformers, against the CPU, and of what must stay the same;
* demo: the demo, with its headline and the seconds of its phases;
* rollout-*, update-*, step-*: benchmarks/rollout.py and benchmarks/step.py on random models of 0.5B and 1.5B shape.

A part that is cut has written what it finished. `gpu-check-DATE.json` is written again after each part; it has the
card, the versions, each part's outcome, the figures of tests and demo, and the paper's step, projected. `--quick` runs
every part in miniature; on a CPU that shows that the script works.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from packaging.requirements import Requirement
from record import RESULTS, device_name, surroundings, write_result

ROOT = Path(__file__).parents[1]
EXTRAS = ("lora", "trl")  # that the parts need
PAPER_STEP_SECONDS = 32 * 3600 / 314  # 1.5B on 8 H800
PAPER_GPUS = 8
QUICK_DEMO = """
max_think_tokens = 60
max_no_think_tokens = 10
[presample]
problems_per_level = 4
reference_samples = 2
[train]
problems_per_step = 5
samples_per_problem = 4
steps = 3
probe_problems_per_level = 2
[evaluate]
problems_per_level = 6
"""


@dataclass(frozen=True, slots=True)
class Part:
    """One program of the check, and the seconds after which it is cut."""

    name: str
    seconds: float
    command: list[str]


def list_parts(device: str, scratch: Path, *, quick: bool) -> list[Part]:
    """Return the parts, the most valuable first."""
    recipe = scratch / "demo.toml"
    recipe.write_text(f'device = "{device}"\n' + (QUICK_DEMO if quick else ""))
    test = ["-m", "pytest", "-m", "gpu", "tests/test_gpu.py", "--device", device, "-p", "no:cacheprovider"]
    recipes = ["toy_cpu", "toy_gap", str(recipe)]
    demo = ["-m", "adaptthink", "demo", "--recipe", *recipes, "--output", str(scratch / "demo")]
    parts = [
        Part("tests", 90, [*test, "-rfE", "--tb=short", "--junitxml", str(scratch / "tests.xml")]),
        Part("demo", 120, [*demo, "--profile"]),
    ]
    on = ["--device", device, "--dtype", "bfloat16"]
    rollout = ["benchmarks/rollout.py", *on, "--engines", "native;transformers"]
    step = ["benchmarks/step.py", *on, "--trainers", "ours;trl"]
    if quick:
        return [
            *parts,
            Part("rollout", 60, [*rollout, "--work", "2x16", "1x48", "--repetitions", "1", "--seconds", "5"]),
            Part("update", 60, [*step, "--update", "2x128", "--steps", "1", "--checkpointing"]),
            Part("step", 60, [*step, "--work", "2x48,8", "--steps", "1"]),
        ]
    rollout += ["--work", "16x512", "4x4096", "--repetitions", "3", "--seconds", "20"]
    update = [*step, "--update", "16x2048", "4x8192", "2x16384", "--steps", "2", "--checkpointing"]
    step += ["--work", "8x256,64", "--steps", "2"]
    return [
        *parts,
        Part("rollout-1.5b", 130, [*rollout, "--model", "random-1.5b"]),
        Part("update-1.5b", 110, [*update, "--model", "random-1.5b"]),
        Part("step-1.5b", 90, [*step, "--model", "random-1.5b"]),
        Part("step-0.5b", 60, [*step, "--model", "random-0.5b"]),
        Part("rollout-0.5b", 110, [*rollout, "--model", "random-0.5b"]),
    ]


def run_part(part: Part, seconds: float, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a part and print its lines; end it and all that it started after `seconds`. Return its outcome."""
    print(f"\n== {part.name}: at most {seconds:.0f} s", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *part.command], cwd=ROOT, env=dict(environment), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip

    def copy_lines() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"  {line.rstrip()}", flush=True)

    reader = threading.Thread(target=copy_lines, daemon=True)
    reader.start()
    try:
        status = "passed" if process.wait(timeout=seconds) == 0 else "failed"
    except subprocess.TimeoutExpired:
        status = "cut"
    finally:
        end_group(process)
    reader.join(timeout=5)
    outcome = {"status": status, "seconds": time.monotonic() - started, "returncode": process.returncode}
    print(f"== {part.name}: {status} after {outcome['seconds']:.0f} s", flush=True)
    return outcome


def end_group(process: subprocess.Popen[str]) -> None:
    """End a process and those that it started, so that none holds the GPU's memory."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        time.sleep(1)
    process.wait()


def find_unmet_requirements() -> list[str]:
    """Return what this environment lacks of pyproject.toml, each with the version that is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    unmet = []
    for line in [
        *project["dependencies"],
        *(line for extra in EXTRAS for line in project["optional-dependencies"][extra]),
    ]:
        requirement = Requirement(line)
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = "none"
        if found == "none" or not requirement.specifier.contains(found, prereleases=True):
            unmet.append(f"{line} (found: {found})")
    return unmet


def list_versions() -> dict[str, str]:
    """Return the versions of what the figures depend on, as far as it is there."""
    versions = {}
    for name in ("torch", "triton", "transformers", "trl", "accelerate", "peft", "datasets", "pyarrow", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def read_tests(path: Path) -> dict[str, Any]:
    """Return each test's outcome and the figures that it recorded, from pytest's XML; nothing if it was cut."""
    if not path.is_file():
        return {}
    tests = {}
    for case in ElementTree.parse(path).iter("testcase"):
        found = {child.tag for child in case} & {"failure", "error", "skipped"}
        figures = {one.get("name"): json.loads(one.get("value", "")) for one in case.iter("property")}
        tests[case.get("name")] = {"outcome": found.pop() if found else "passed"} | figures
    return tests


def read_demo(run: Path) -> dict[str, Any]:
    """Return the demo's seconds by phase, as far as it came, and at its end the headline."""
    from adaptthink.storage.runs import read_metrics  # noqa: PLC0415
    from adaptthink.timing import profile  # noqa: PLC0415

    demo: dict[str, Any] = {}
    rows = read_metrics(run / "metrics.jsonl")
    if rows:
        demo |= {"steps": len(rows), "phases_of_steps": [asdict(phase) for phase in profile(rows)]}
    if (run / "summary.json").is_file():
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        keys = ("delta_accuracy_points", "delta_length_percent", "seconds", "peak_memory_mb")
        demo |= {key: summary[key] for key in keys}
    return demo


def project_step(device: str) -> dict[str, Any]:
    """Return the seconds of the paper's step at the rates of the longest responses that were measured here.

    Both rates are taken as they are, though the paper's responses are longer, and eight GPUs as eight times one.
    """
    from adaptthink.cli.plan import PROMPT_TOKENS, find_lengths  # noqa: PLC0415
    from adaptthink.config.resolve import resolve  # noqa: PLC0415
    from adaptthink.config.schema import VerlConfig  # noqa: PLC0415

    end = "-gpu" if device == "cuda" else ""
    model = "random-1.5b" if device == "cuda" else "tiny"
    rates = {}
    for kind, key, name in (("rollout", "tokens_per_second", "native"), ("update", "update_tokens_per_second", "ours")):
        files = sorted(RESULTS.glob(f"{kind}-{model}-bfloat16{end}-2*.json"))
        works = json.loads(files[-1].read_text())["works"] if files else {}
        measured = [work for work in works.values() if name in work[key]]
        if not measured:
            return {}
        rates[kind] = max(measured, key=lambda work: work["max_tokens"])[key][name]["median"]
    config = resolve("verl", VerlConfig, recipes=["r1_distill_1.5b"])
    lengths = find_lengths(config, None, None, PROMPT_TOKENS, None)
    half = config.problems_per_step * config.samples_per_problem / 2
    tokens = half * (sum(lengths.think) / len(lengths.think) + sum(lengths.no_think) / len(lengths.no_think))
    seconds = {kind: tokens / rate / PAPER_GPUS for kind, rate in rates.items()}
    return {
        "model": model,
        "response_tokens": tokens,
        "gpus": PAPER_GPUS,
        "seconds": seconds | {"both": sum(seconds.values())},
        "paper_seconds": PAPER_STEP_SECONDS,
    }


def main() -> None:
    """Run the parts and write the summary; exit with 1 if one failed or was cut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="everything in miniature")
    parser.add_argument("--output", type=Path, help="folder of the result files [default: benchmarks/results]")
    parser.add_argument("--seconds", type=float, help="of all parts together [default: 530, with --quick 3000]")
    parser.add_argument("--parts", nargs="+", help="only these")
    arguments = parser.parse_args()
    seconds, started = arguments.seconds or (3000 if arguments.quick else 530), time.monotonic()
    unmet = find_unmet_requirements()
    for line in unmet:
        print(f"not met: {line}", flush=True)
    if unmet:
        print("what is missing comes along as wheels: scripts/gpu_wheels.sh", flush=True)
    result = surroundings([]) | {"versions": list_versions(), "unmet_requirements": unmet, "quick": arguments.quick}
    result |= describe_device(arguments.device) | {"parts": {}}
    print({key: result[key] for key in ("date", "device", "machine", "python", "versions")}, flush=True)
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    if arguments.quick:
        environment.setdefault("OMP_NUM_THREADS", "1")  # the miniature is not for its figures, and may share the cores
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for part in list_parts(arguments.device, scratch, quick=arguments.quick):
            if arguments.parts and part.name not in arguments.parts:
                continue
            left = seconds - (time.monotonic() - started)
            if left < 10:
                result["parts"][part.name] = {"status": "not started", "seconds": 0.0}
            else:
                limit = part.seconds * (
                    4 if arguments.quick else 1
                )  # in miniature the limit only guards against hanging
                result["parts"][part.name] = run_part(part, min(left, limit), environment)
            result |= {"tests": read_tests(scratch / "tests.xml"), "demo": read_demo(scratch / "demo")}
            result["projected_step"] = project_step(arguments.device)
            path = write_result("gpu-check", result)
    show(result)
    print(f"written to {path}, beside the files of the parts", flush=True)
    sys.exit(any(part["status"] != "passed" for part in result["parts"].values()))


def describe_device(device: str) -> dict[str, Any]:
    """Return what the card is; exits if there is none."""
    import torch  # noqa: PLC0415

    if device == "cpu":
        return {"device": "cpu"}
    if not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU; --device cpu --quick runs every part in miniature")
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": device_name(device),
        "cuda": torch.version.cuda,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gb": properties.total_memory / 1e9,
        "multiprocessors": properties.multi_processor_count,
    }


def show(result: Mapping[str, Any]) -> None:
    """Print the summary, last, where a cut log still has it."""
    print(f"\n== summary: {result['device']}", flush=True)
    for name, part in result["parts"].items():
        print(f"{name:14}{part['status']:12}{part['seconds']:6.0f} s")
    for name, test in result["tests"].items():
        figures = {key: value for key, value in test.items() if key != "outcome"}
        print(f"{test['outcome']:9}{name} {figures or ''}")
    demo = result["demo"]
    for phase in demo.get("phases_of_steps", []):
        print(f"demo, {demo['steps']} steps: {phase['name']:13}{phase['seconds']:8.1f} s")
    if "seconds" in demo:
        print(
            f"demo: accuracy {demo['delta_accuracy_points']:+.1f} points, length {demo['delta_length_percent']:+.1f}%, "
            f"seconds {demo['seconds']}"
        )
    if result["projected_step"]:
        step = result["projected_step"]
        print(
            f"the paper's step at the rates of {step['model']}, on {step['gpus']} of these: rollouts "
            f"{step['seconds']['rollout']:.0f} s, update {step['seconds']['update']:.0f} s; "
            f"the paper: {step['paper_seconds']:.0f} s on 8 H800. A projection: nothing of it was run"
        )


if __name__ == "__main__":
    main()
