"""The engine: the process that runs inner loops for the front."""
