"""What we measure about ourselves: clients of the product, run from a checkout."""
