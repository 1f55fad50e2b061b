"""The tables of the documentation's pages, from results."""
