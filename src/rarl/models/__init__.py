"""Vision-language models: loading them, the embedded one, and their greedy replies."""
