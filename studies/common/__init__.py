"""What all studies share: results, pages, plots, bundles and the runner."""
