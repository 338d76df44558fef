"""A server that speaks OpenAI's, Anthropic's and Ollama's dialects. docs/how-to/serving.md lists what each supports."""
