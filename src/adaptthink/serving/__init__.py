"""A server that speaks OpenAI's, Anthropic's and Ollama's dialects. docs/serving.md lists what each supports."""
