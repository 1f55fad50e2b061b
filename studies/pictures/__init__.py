"""The benchmark of real pictures: sets, drawings, contenders, tables."""
