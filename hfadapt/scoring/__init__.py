"""How good the answers are: metrics with intervals, simple baselines, and the table that shows both."""
