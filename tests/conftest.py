"""Fixtures: a small random model with the embedded tokenizer, so that tests need no trained weights."""

import importlib.util
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

# Test workers beside each other, each with a thread for each core, would spend their time waiting for each other.
# Set before torch is imported, which reads it then; programs that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# TRL reports each trainer that is made to the hub. Set before huggingface_hub is imported, which reads it then.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pytest
import torch
from waiting import WAIT_SECONDS

from adaptthink.cli.app import main
from adaptthink.engines.vllm_worker import EXTENSION
from adaptthink.grading import pool
from adaptthink.models.loading import TINY, Policy, find_eos_ids
from adaptthink.models.make_tiny import make_model, make_tokenizer
from adaptthink.modes import probe
from adaptthink.report import drawing

# A job that a shell starts in the background ignores SIGINT, and so would the programs that tests start to interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

if importlib.util.find_spec("hypothesis"):  # whose limits on time a busy machine would break
    from hypothesis import HealthCheck, settings

    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("thorough", settings.get_profile("any machine"), max_examples=2000)
    settings.load_profile("any machine")


@pytest.hookimpl(optionalhook=True)  # some environments have no xdist
def pytest_xdist_auto_num_workers(config):
    """Of `-n auto`: one process more than there are cores, as some tests wait for other programs."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores + 1


def pytest_addoption(parser):
    parser.addoption("--device", default="cuda", help="where the tests of tests/test_gpu.py run [default: cuda]")
    parser.addoption("--slow", action="store_true", help="also run the tests that are marked slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: --slow runs it, as .ci/run does"))


@pytest.fixture(scope="session", autouse=True)
def patient_grading():
    """Take the default limits from symbolic grading: 2 s for an easy answer may be too little on a busy machine.

    Tests about limits set their own.
    """
    default, start = pool.Limits().seconds, pool.Worker.__init__

    def start_with_long_limits(self, limits):
        start(self, replace(limits, seconds=WAIT_SECONDS) if limits.seconds == default else limits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool.Worker, "__init__", start_with_long_limits)
        patch.setattr(pool, "START_SECONDS", WAIT_SECONDS)
        yield


@pytest.fixture(scope="session", autouse=True)
def draw_equal_pictures_once():
    """Draw each picture once per process: most tests of reports look at the page around the same ones."""
    draw, drawn = drawing.draw_picture, {}

    def draw_once(plot):
        key = replace(plot, draw=None)  # all that is drawn stands in the rows, columns and keys
        if key not in drawn:
            drawn[key] = draw(plot)
        return replace(drawn[key], plot=plot)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adaptthink.report.draw_picture", draw_once)
        yield


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the command line in this process; returns exit status, standard output and standard error."""

    def run_(*args):
        monkeypatch.setattr(sys, "argv", ["adaptthink", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        return caught.value.code or 0, out, err

    return run_


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def random_model(tokenizer):
    """Two layers, random weights, float32: different tokens get clearly different logits."""
    torch.manual_seed(0)
    model = make_model(tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


@pytest.fixture
def random_policy(tokenizer, random_model):
    template = probe(tokenizer)
    return Policy("random", random_model, tokenizer, template, find_eos_ids(random_model, tokenizer, template))


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory):
    """vLLM's server, one for all tests of a session: the embedded model with a dial, our plugin, fresh weights.

    Returns its URL and the file of its log. It is started by the command of docs/how-to/engines.md.
    """
    import vllm_server as started

    folder = tmp_path_factory.mktemp("vllm")
    model, log = shutil.copytree(TINY, folder / "model"), folder / "log"
    started.store_dial(model, started.THRESHOLD)
    (vllm, serve, _, *options), _ = started.read_commands()
    assert (vllm, serve) == ("vllm", "serve")
    options += ["--logprobs-mode", "processed_logprobs", "--worker-extension-cls", EXTENSION]
    process, url = started.start_server(model, log, *options)
    yield url, log
    started.stop_server(process)


@pytest.fixture(scope="session")
def data_folder():
    """Local copies of public problem sets: ADAPTTHINK_DATA, else data/ in or ../shared/data beside the project."""
    root = Path(__file__).parents[1]
    folders = [Path(os.environ.get("ADAPTTHINK_DATA", root / "data")), root / "data", root.parent / "shared/data"]
    found = next((folder for folder in folders if (folder / "gsm8k_test.jsonl").is_file()), None)
    return found or pytest.skip(
        "no local problem sets: set ADAPTTHINK_DATA to a folder with gsm8k_test.jsonl and others"
    )
