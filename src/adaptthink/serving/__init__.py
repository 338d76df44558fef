"""A small server with an OpenAI-style interface. docs/serving.md lists what it supports and what it leaves out."""
