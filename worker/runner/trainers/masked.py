"""scikit-learn's perceptrons with Dropout, and a count of right answers.

Two methods of theirs are replaced, which are no public interface: the forward pass of training and
the gradient of one layer. A test compares the gradients with finite differences, and `_check`
refuses a version that lacks them.

Dropout is as first published (Srivastava et al., 2014): training multiplies what goes into a layer
with a mask of zeros and ones, and prediction multiplies that layer's weights with the share that
was kept (`keep`).
"""

from __future__ import annotations

from typing import Any, Final

from worker.runner.faults import EnvironmentLacks
from worker.runner.lazy import Array, need, np

_REPLACED: Final = ("_forward_pass", "_compute_loss_grad")


def masked(name: str) -> Any:
    """The class `MLPClassifier` or `MLPRegressor` with both. Raises EnvironmentLacks.

    Its objects need the attributes ``rates`` (Dropout of what goes into each layer), ``random``
    (a numpy Generator) and ``right`` (a count) before they are trained.
    """
    why = "the trainer"
    base = getattr(need("sklearn.neural_network", package="scikit-learn", why=why), name)
    functions = need("sklearn.neural_network._base", package="scikit-learn", why=why)
    _check(base, functions)

    def forward(self: Any, activations: list[Array]) -> list[Array]:
        self.masks = {}
        last = self.n_layers_ - 2
        for at in range(last + 1):
            if rate := self.rates.get(at):
                kept = self.random.random(activations[at].shape, dtype=np.float32) >= rate
                self.masks[at] = kept
                activations[at] = activations[at] * kept
            made = activations[at] @ self.coefs_[at]
            made += self.intercepts_[at]
            functions.ACTIVATIONS[self.out_activation_ if at == last else self.activation](made)
            activations[at + 1] = made
        return activations

    def gradient(
        self: Any, layer: int, count: float, activations: list[Array], deltas: list[Array],
        *gradients: Any,
    ) -> None:  # fmt: skip
        if layer + 1 in self.masks:
            deltas[layer] *= self.masks[layer + 1]
        if layer == self.n_layers_ - 2 and name == "MLPClassifier":
            said, off = activations[-1], deltas[layer]  # off is what was said less the truth
            self.right += int((_classes(said) == _classes(said - off)).sum())
        base._compute_loss_grad(  # noqa: SLF001  # what this module is for
            self, layer, count, activations, deltas, *gradients
        )

    return type(name, (base,), {"_forward_pass": forward, "_compute_loss_grad": gradient})


def keep(rates: dict[int, float], layer: int) -> float:
    """What a layer's weights are multiplied with for prediction."""
    return 1 - rates.get(layer, 0.0)


def _classes(outputs: Array) -> Array:
    found: Array = outputs[:, 0] > 0.5 if outputs.shape[1] == 1 else outputs.argmax(axis=1)
    return found


def _check(base: Any, functions: Any) -> None:
    lacks = [one for one in _REPLACED if not hasattr(base, one)]
    if lacks or not hasattr(functions, "ACTIVATIONS"):
        version = need("sklearn", package="scikit-learn").__version__
        raise EnvironmentLacks(
            f"scikit-learn {version} cannot be used to train: it lacks "
            f"{', '.join(lacks) or 'ACTIVATIONS'}; install 1.5 to 1.9, or PyTorch"
        )
