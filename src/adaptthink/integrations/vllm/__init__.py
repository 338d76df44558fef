"""AdaptThink in vLLM's own server: modes, thresholds and thinking budgets by request, and a reasoning parser.

steps.py      what one request does to its next token (needs nothing of vLLM)
processor.py  vLLM's logits processor, for both of its model runners
markers.py    thinking and answer of a text, also as it comes (needs nothing of vLLM)
reasoning.py  vLLM's reasoning parser
"""
