"""The tail of `photos`: what its adaptation gains by the time it takes."""
