"""The program inside: trains a `model_definition` and says on stdout how it goes.

It stands alone: nothing of `tasks` or of the rest of `worker`, and only the standard library when
it is imported, so that it runs in any image that has a framework. Numpy, scikit-learn and PyTorch
are loaded when they are first used.
"""
