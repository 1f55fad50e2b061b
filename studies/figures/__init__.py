"""The paper's figures and two ablations, one script each."""
