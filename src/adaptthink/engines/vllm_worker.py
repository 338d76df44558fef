"""What this package adds to vLLM's workers: one method that takes fresh weights. Runs in vLLM's processes.

Given to vLLM as `--worker-extension-cls adaptthink.engines.vllm_worker.FreshWeights`.
"""

from __future__ import annotations

from typing import Any

EXTENSION = "adaptthink.engines.vllm_worker.FreshWeights"
METHOD = "load_fresh_weights"


class FreshWeights:
    """Mixed into vLLM's worker class, whose `reload_weights` and `model_runner` it uses."""

    reload_weights: Any
    model_runner: Any

    def load_fresh_weights(self, folder: str) -> None:
        """Replace the weights by those in `folder` (safetensors, names as in the model's checkpoint).

        On a CPU vLLM computes logits with a packed copy of the output layer. Where that layer is tied to the
        embedding the checkpoint does not name it, `reload_weights` (vLLM 0.32) skips it and the old copy stays in use:
        the output layer would keep its first weights. So it is packed again.
        """
        self.reload_weights(weights_path=folder)
        head = getattr(self.model_runner.get_model(), "lm_head", None)
        if head is not None and hasattr(head, "cpu_linear"):
            head.quant_method.process_weights_after_loading(head)
