"""Test support, not for training: runs stock verl 0.9.1 without a GPU, to test and to measure what we build on it.

verl knows CUDA and NPU devices, NCCL, and rollouts by vLLM, SGLang and TensorRT-LLM. `plugin` adds a CPU platform,
process groups over gloo alone, and rollouts by transformers in a Ray actor; nothing of verl's trainer, agent loops,
FSDP engine or data transfer is replaced. `launch` has the environment and the settings that go with it.

Add the folder above this one to PYTHONPATH: Ray's workers inherit it. The name is our own, because verl's wheel
installs top-level packages `tests` and `scripts`.
"""
