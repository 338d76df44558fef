"""AdaptThink: reasoning models learn when to think (arXiv 2505.13417).

Importing this package is cheap; torch and transformers are loaded by the modules that need them.
"""

__version__ = "0.1.0"
