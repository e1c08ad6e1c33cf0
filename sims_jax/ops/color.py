"""Linear colour transfer.

A map T that carries colours of covariance A to covariance B, moving them as little as possible
(linear Monge-Kantorovitch), is the symmetric solution of T A T = B:

    T = A^(-1/2) (A^(1/2) B A^(1/2))^(1/2) A^(-1/2)

Colours are rows, x -> (x - mean_A) T + mean_B. Source: Pitie and Kokaram, "The Linear
Monge-Kantorovitch Linear Colour Mapping for Example-Based Colour Transfer", 2007.
Differs: both covariances are enlarged by COLOR_NOISE times the identity, so that flat regions,
whose covariance is singular, have a map of bounded gain.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

COLOR_NOISE = 1 / 255**2 / 12  # variance of the error of rounding to 8 bits

# Matrix products in full float32: TF32 would lose the small variances beside the large ones.
_EXACT = jax.lax.Precision.HIGHEST


def color_map(
    source_cov: Float[Array, "*B 3 3"], target_cov: Float[Array, "*B 3 3"]
) -> Float[Array, "*B 3 3"]:
    """The symmetric T of T A T = B, A and B the covariances enlarged by COLOR_NOISE.

    Differentiable, also where eigenvalues coincide; leading axes are a batch.
    """
    noise = COLOR_NOISE * jnp.eye(3, dtype=jnp.float32)
    return _solve_map(source_cov + noise, target_cov + noise)


def move_colors(
    colors: Float[Array, "*#B 3"],
    source_mean: Float[Array, "*#B 3"],
    linear: Float[Array, "*#B 3 3"],
    target_mean: Float[Array, "*#B 3"],
) -> Float[Array, "*B 3"]:
    """(x - mean_A) T + mean_B of every colour; leading axes broadcast.

    Sums of products and no matrix product: each pixel may have its own T.
    """
    centred = colors - source_mean
    return (centred[..., :, None] * linear).sum(axis=-2) + target_mean


@jax.custom_jvp
def _solve_map(a: Float[Array, "*B 3 3"], b: Float[Array, "*B 3 3"]) -> Float[Array, "*B 3 3"]:
    """T of T a T = b, for positive definite a and b."""
    return _solve_parts(a, b)[0]


@_solve_map.defjvp
def _solve_map_jvp(primals, tangents):
    """From d(T a T) = db: with X = a^(1/2) T a^(1/2) and D = a^(1/2) dT a^(1/2),

    D X + X D = a^(1/2) (db - T da T) a^(1/2), which is solved in the eigenvectors of X. The
    derivatives of eigenvectors, infinite where eigenvalues coincide, are never needed.
    """
    a, b = primals
    da, db = tangents
    solution, root, inverse_root, values, vectors = _solve_parts(a, b)
    right = _multiply(root, db - _multiply(solution, da, solution), root)
    rotated = _multiply(jnp.matrix_transpose(vectors), right, vectors)
    rotated = rotated / (values[..., :, None] + values[..., None, :])
    inner = _multiply(vectors, rotated, jnp.matrix_transpose(vectors))
    return solution, _multiply(inverse_root, inner, inverse_root)


def _solve_parts(a: Float[Array, "*B 3 3"], b: Float[Array, "*B 3 3"]) -> tuple[Array, ...]:
    """T, a^(1/2), a^(-1/2), and the eigenvalues and eigenvectors of a^(1/2) T a^(1/2)."""
    root, inverse_root = _square_roots(a)
    # X = (K^T K)^(1/2) for K = b^(1/2) a^(1/2); from K itself, since float32 would lose the
    # small eigenvalues of the product K^T K.
    _, values, transposed = jnp.linalg.svd(_multiply(_square_roots(b)[0], root))
    vectors = jnp.matrix_transpose(transposed)
    middle = _multiply(vectors * values[..., None, :], transposed)
    return _multiply(inverse_root, middle, inverse_root), root, inverse_root, values, vectors


def _square_roots(matrix: Float[Array, "*B 3 3"]) -> tuple[Array, Array]:
    """matrix^(1/2) and matrix^(-1/2) of symmetric matrices with eigenvalues >= COLOR_NOISE."""
    values, vectors = jnp.linalg.eigh(matrix)
    # Rounding may leave an eigenvalue below its bound.
    roots = jnp.sqrt(jnp.maximum(values, COLOR_NOISE))[..., None, :]
    transposed = jnp.matrix_transpose(vectors)
    return _multiply(vectors * roots, transposed), _multiply(vectors / roots, transposed)


def _multiply(*factors: Float[Array, "*B 3 3"]) -> Float[Array, "*B 3 3"]:
    product = factors[0]
    for factor in factors[1:]:
        product = jnp.matmul(product, factor, precision=_EXACT)
    return product
