"""Numbers mixed into a seed, so that no two kinds of draws share a stream."""

INITIAL_PARAMETERS = 1
TASKS = 2
SINE_EVALUATION = 3
AUGMENTATION = 4
