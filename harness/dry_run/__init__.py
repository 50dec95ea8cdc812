"""What a run would do: prompts, sizes, time and memory, before a night is spent on it."""
