"""Proofs that nothing breaks the server: docs/reliability.md has what they found."""
