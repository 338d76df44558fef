"""What verl imports in each of its processes: importing this module puts our names into verl's registries.

verl finds it by the entry point `verl.plugins`, where it swallows an error of ours, or by VERL_USE_EXTERNAL_MODULES,
where an error ends the process; our launcher uses the latter.
"""

from __future__ import annotations

from adaptthink.integrations.verl import loop, trainer

__all__ = ["loop", "trainer"]
