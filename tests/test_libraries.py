"""What libraries write while a command runs."""

import logging
import os
import subprocess
import sys
import warnings

import pytest
from waiting import WAIT_SECONDS

from adaptthink.cli.libraries import HUB_REQUESTS, LIBRARIES, OneRetryLine, quieten_libraries


def record(text, *args):
    return logging.LogRecord(HUB_REQUESTS, logging.WARNING, "", 0, text, args, None)


def test_of_all_retries_one_line_is_left_with_cause_and_advice():
    only = OneRetryLine()
    first = record("'%s' thrown while requesting %s %s", "[Errno 111] Connection refused", "HEAD", "http://hub/x")
    assert only.filter(first)
    assert "cannot be reached ([Errno 111] Connection refused)" in first.getMessage()
    assert "HF_HUB_OFFLINE=1" in first.getMessage()
    for text in ("Retrying in 1s [Retry 1/5].", "'again' thrown while requesting HEAD http://hub/y", "Retrying in 2s"):
        assert not only.filter(record(text))
    assert only.filter(record("another matter"))


@pytest.fixture
def quiet():
    logger = logging.getLogger(HUB_REQUESTS)
    before = list(logger.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quieten_libraries()
        yield caught
    logger.filters[:] = before


@pytest.mark.parametrize("module", [*LIBRARIES.split("|"), "torch.nn.modules.module", "peft.tuners.lora"])
def test_libraries_do_not_warn(quiet, module):
    warnings.warn_explicit("deprecated", UserWarning, "x.py", 1, module=module)
    assert quiet == []


@pytest.mark.parametrize("module", ["adaptthink.api", "my_rewards", "torchvision"])
def test_others_do(quiet, module):
    warnings.warn_explicit("look here", UserWarning, "x.py", 1, module=module)
    assert len(quiet) == 1


def test_the_hubs_client_still_logs_what_is_filtered(tmp_path):
    """With a hub that refuses connections, its client writes retries under this name: one of them is shown."""
    code = (
        "from adaptthink.cli.libraries import quieten_libraries; quieten_libraries()\n"
        "from huggingface_hub.utils import http_backoff\n"
        "try:\n"
        "    http_backoff('HEAD', 'http://127.0.0.1:1/x', max_retries=2, base_wait_time=0, max_wait_time=0)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=WAIT_SECONDS, check=False
    )
    assert "Error" in ran.stdout
    [line] = ran.stderr.splitlines()
    assert line.startswith("the hub cannot be reached (")
