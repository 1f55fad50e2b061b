"""What the classifier in scikit-learn's conventions consists of."""
