"""vLLM's server as a process, as docs/how-to/engines.md starts it with our plugin, and what else tests need of it."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from adaptthink.dial.curve import Measured
from adaptthink.dial.stored import STORED, calibrate, write_dial
from adaptthink.engines.openai import KEY_VARIABLE
from adaptthink.evaluation.store import Setting

ENGINES_PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "engines.md"
MEMORY_SHARE = 0.1
START_SECONDS = 480  # half a minute on an idle machine, many times that on a busy one
KEY = "secret"
THRESHOLD = 2.3e-5  # of the dial beside the served model, which was not trained to answer at once
SETTING = Setting("m", "weights", 0.6, 0.95, 128, 16, 0)
PROBLEMS = (
    Measured("a", "1", 0.9, (1, 1), (1, 0), (10, 20), (4, 6)),
    Measured("b", "1", 0.2, (1, 0), (1, 1), (30, 30), (5, 5)),
)


def store_dial(folder, threshold, *, certified=True):
    """Write a dial as calibrate does, with a threshold that nothing has certified."""
    dial = calibrate(PROBLEMS, SETTING, "set", tolerance=0.02)
    choice = replace(dial.threshold, no_think_probability=threshold, certified=certified)
    write_dial(folder / STORED, replace(dial, threshold=choice, choices=(choice,)))


def read_commands():
    """The commands of the page's section about vLLM itself: that of the server and that of a request, as words."""
    section = ENGINES_PAGE.read_text(encoding="utf-8").partition("## In vLLM itself")[2].partition("\n## ")[0]
    serve, curl = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return shlex.split(serve.replace("\\\n", " ")), shlex.split(curl)


def start_server(model, log, *options):
    """Start vLLM's server as a process group of its own; return it and its URL once it answers.

    `vllm serve MODEL` fails on the CPU build, where the same options work with vLLM's module.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    command += ["--gpu-memory-utilization", str(MEMORY_SHARE), "--max-num-seqs", "64", *options]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", KEY_VARIABLE: KEY, "VLLM_NO_USAGE_STATS": "1"}
    environment |= {"VLLM_LOGGING_LEVEL": "INFO"}  # which our engine in this process lowers
    with log.open("w") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server, f"http://127.0.0.1:{port}"
        time.sleep(0.5)
    stop_server(server)
    raise RuntimeError("the server did not start:\n" + log.read_text()[-2000:])


def stop_server(server):
    """Stop a server, and kill it with its processes if it does not."""
    server.terminate()
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, 9)
        server.wait()
