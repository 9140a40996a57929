"""The paper: its equations, prompts, replies, rewards and response mutation. No torch, and no files."""
