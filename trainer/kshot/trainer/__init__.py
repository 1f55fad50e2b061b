"""Meta-training: data sets, episodes, recipes, the outer loop, evaluation and export."""
