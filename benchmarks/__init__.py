"""What the project's own machinery costs, as ratios to the bare tools in the same run.

``make bench`` runs all; ``python -m benchmarks.dispatch [--json]`` one. Each prints a table (or one
JSON object) and exits with 1 when a bound is missed.
"""
