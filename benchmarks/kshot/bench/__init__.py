"""`kshot bench`: kshot side by side with what else one would run, in one process and one run."""
