"""The connection to a server: its address, its credentials, its calls, and why they fail."""
