"""Models behind servers that speak OpenAI's chat completions: vLLM, SGLang, `transformers serve`, commercial ones."""
