"""What the dynamics ask of a mass matrix M, with P = M⁻¹ and A a factor, A Aᵀ = P; and how one is estimated."""

from typing import Any, NamedTuple, Protocol

import jax


class Geometry(Protocol):
    """A symmetric positive definite mass matrix on the space of the parameters; itself a pytree."""

    def precondition(self, gradient: Any) -> Any:
        """P g, a pytree like `gradient`."""
        ...

    def quadratic(self, velocity: Any) -> jax.Array:
        """vᵀMv, shape `()`."""
        ...

    def sample(self, key: jax.Array, like: Any) -> Any:
        """A z with z ~ N(0, I): a draw with covariance P, a pytree like `like`."""
        ...


class Scaling(Protocol):
    """A mass matrix M = diag(s²) as momenta u = s v see it, which lie on the unit sphere; itself a pytree."""

    def whiten(self, gradient: Any) -> Any:
        """g/s, a pytree like `gradient`."""
        ...

    def velocity(self, momentum: Any) -> Any:
        """v = u/s, a pytree like `momentum`."""
        ...


class Factored(NamedTuple):
    """A geometry made from noise draws.

    Attributes:
        geometry: M = s (Σ̂ + Λ), normalised so that tr(P)/d = 1.
        scale: s = tr((Σ̂ + Λ)⁻¹)/d, shape `()`.
        damping: Λ as it was used: one scalar per leaf.
    """

    geometry: Geometry
    scale: jax.Array
    damping: list[jax.Array]


class NoiseEstimate(Protocol):
    """Running statistics of gradient-noise draws, from which a geometry is factored; all functions are pure.

    Parameters are seen as `jax.tree.leaves` of the unpacked tree: `damping` is a list with one scalar per leaf.
    """

    def init(self, params: Any) -> Any:
        """Statistics before the first draw."""
        ...

    def update(self, stats: Any, draw: Any, weight: jax.Array) -> Any:
        """Σ̂ ← (1 − weight) Σ̂ + weight · draw drawᵀ, as far as the geometry can express it."""
        ...

    def rotate(self, stats: Any) -> Any:
        """Chooses the bases anew (eigenvectors), where the geometry has any; expensive, and rare."""
        ...

    def leaf_means(self, stats: Any) -> list[jax.Array]:
        """The mean variance of each leaf's entries, scalars."""
        ...

    def factor(self, stats: Any, damping: list[jax.Array]) -> Factored:
        """The geometry of Σ̂ + Λ, Λ = damping[ℓ] · I on leaf ℓ."""
        ...
