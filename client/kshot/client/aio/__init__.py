"""The client for event loops: the same exchanges, awaited."""
