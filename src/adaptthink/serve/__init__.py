"""A small server with an OpenAI-style interface. docs/serving.md says what it honours and what it leaves out."""
