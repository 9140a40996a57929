"""Vision-language models: how they are loaded, how they reply greedily, and how the embedded one is made."""
