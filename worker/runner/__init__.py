"""The program inside a job: trains a `model_definition`. It knows nothing of the node.

Importing it costs nothing but the standard library; a trainer loads its framework when it is
chosen. It runs where a job runs: on a native node, in a container, or by hand.
"""
