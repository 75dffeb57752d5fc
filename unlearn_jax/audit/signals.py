"""Membership signals, one real number per sample from its logits and label.

Every function is pure JAX (``jit``, ``vmap`` and ``grad`` work; keyword options are
Python numbers). All functions take ``logits [..., C]`` and integer ``labels`` that
broadcast to ``[...]``. They return ``[...]`` in float32, or in the dtype of the logits
if that is wider. So ``[M, N, C]`` logits with ``[N]`` labels give ``[M, N]``. NumPy
arrays are accepted. Logits must be finite; a label outside 0..C-1 gives NaN, which the
attacks refuse.

Functions return the quantity they are named after. :data:`SIGNALS` holds the same
quantities as **membership scores**, where higher means more likely member: losses and
entropies are negated there.
"""

from collections.abc import Callable, Iterable, Sized

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unlearn_jax import extensions
from unlearn_jax.checks import warn_of_probabilities
from unlearn_jax.types import Array, InputError, first_line

SignalFn = Callable[..., Array]
"""``(logits [..., C], labels [...]) -> scores [...]``, higher = more likely member."""


def _read(logits: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    """Return logits in at least float32, and the labels' one-hot mask ``[..., C]``.

    All entries of a sample's mask are False if its label is out of range.
    """
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"labels have dtype {labels.dtype}: pass integer class numbers"
        )
    # Values beyond the range of float32 become infinite.
    with np.errstate(over="ignore"):
        logits = jnp.asarray(logits)
    if logits.ndim < 1 or logits.shape[-1] < 2:
        raise InputError(
            f"logits have shape {logits.shape}: pass [..., C] with at least two classes"
        )
    # JAX would cut int64 labels down to their lower 32 bits.
    if isinstance(labels, np.ndarray):
        labels = np.clip(labels.astype(np.int64), -1, logits.shape[-1]).astype(np.int32)
    labels = jnp.asarray(labels)
    try:
        labels = jnp.broadcast_to(labels, logits.shape[:-1])
    except ValueError:
        raise InputError(
            f"labels of shape {labels.shape} do not broadcast to the logits'"
            f" {logits.shape[:-1]}: pass one per sample"
        ) from None
    kind = labels.dtype if labels.dtype.itemsize > 4 else jnp.int32
    classes = jax.lax.broadcasted_iota(kind, logits.shape, logits.ndim - 1)
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    return logits.astype(wide), labels[..., None].astype(kind) == classes


def _pick(values: Array, hot: Array) -> Array:
    """Return the value of the class that ``hot`` marks; NaN where none is marked."""
    return jnp.where(hot.any(-1), jnp.where(hot, values, 0).sum(-1), jnp.nan)


def _margin(logits: Array, hot: Array) -> Array:
    """Return ``z_y - logsumexp_{j != y} z_j``: the log-odds of the marked class."""
    return _pick(logits, hot) - jax.nn.logsumexp(
        jnp.where(hot, -jnp.inf, logits), axis=-1
    )


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}: pass a positive number")


def logit_margin(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Return LiRA's phi, the log-odds of the true class.

    ``phi = log p_y - log(1 - p_y) = z_y - logsumexp_{j != y} z_j`` (Carlini et al.
    2022, "Membership Inference Attacks From First Principles"). The second form never
    forms a probability, so it stays accurate where float32 rounds ``p_y`` to 0 or 1.

    Args:
      logits: ``[..., C]``, finite.
      labels: ``[...]`` integers in 0..C-1.

    Returns:
      ``[...]``, any finite real; higher = more likely member.

    Raises:
      InputError: fewer than two classes, labels not integer or not broadcastable to
        ``[...]``.

    >>> logits = jnp.array([[100.0, 0.0, 0.0], [-3.0, 6.0, 1.0]])
    >>> print(logit_margin(logits, jnp.array([0, 1])).round(2))
    [99.31  4.98]
    """
    return _margin(*_read(logits, labels))


def softmax_confidence(
    logits: ArrayLike, labels: ArrayLike, *, temperature: float = 1.0
) -> Array:
    """Return the softmax probability of the true class at a temperature.

    Args:
      logits: ``[..., C]``, finite.
      labels: ``[...]`` integers in 0..C-1.
      temperature: divisor of the logits; positive.

    Returns:
      ``[...]`` in [0, 1]; higher = more likely member. The confidence saturates at 1;
      :func:`logit_margin` does not.

    Raises:
      InputError: the same cases as :func:`logit_margin`; a temperature that is not
        positive.
    """
    return soft_margin(logits, labels, temperature=temperature, margin=0.0)


def soft_margin(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: float = 2.0,
    margin: float = 0.6,
) -> Array:
    """Return the soft-margin softmax, which subtracts a margin from the true logit.

    With ``u = z / T``: ``exp(u_y - m) / (exp(u_y - m) + sum_{j != y} exp(u_j))``
    (Zarifzadeh et al. 2024, "Low-Cost High-Power Membership Inference Attacks"). Adding
    a constant to all logits of a sample does not change this signal.

    Args:
      logits: ``[..., C]``, finite.
      labels: ``[...]`` integers in 0..C-1.
      temperature: T, positive.
      margin: m, subtracted from the true class's ``u_y``.

    Returns:
      ``[...]`` in [0, 1]; higher = more likely member.

    Raises:
      InputError: the same cases as :func:`softmax_confidence`.
    """
    _check_temperature(temperature)
    logits, hot = _read(logits, labels)
    return jax.nn.sigmoid(_margin(logits / temperature, hot) - margin)


def taylor_softmax(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: float = 2.0,
    margin: float = 0.6,
    order: int = 4,
) -> Array:
    """Return the SM-Taylor-softmax, RMIA's signal, with a polynomial in place of exp.

    ``h(u_y - m) / (h(u_y - m) + sum_{j != y} h(u_j))``, with ``u = z / T`` and
    ``h(u) = sum_{k=0}^{order-1} u^k / k!`` (Zarifzadeh et al. 2024, "Low-Cost
    High-Power Membership Inference Attacks"; the defaults are those of its CIFAR-10
    runs and of AMUN's audit).

    ``order`` counts terms, as in the released code. Order 4 is a **cubic** polynomial
    that is negative for u < -1.596, so the signal can be negative or above 1, and is
    infinite or NaN if the denominator vanishes. This is kept for parity with the
    released code. Odd orders (``order=5`` is the quartic) are positive everywhere and
    give values in (0, 1).

    **Adding a constant to all logits of a sample** changes this signal, because
    ``h(u + c)`` is not ``h(c) h(u)``, unlike for exp. Predictions and softmax losses do
    not change. Gradients of a softmax loss sum to 0 over the classes, so training does
    not determine the constant, and audits of trained models agree. Methods that change
    weights in other ways (SSD, Fisher forgetting, projections, output filters) change
    the constant and with it the score. :func:`soft_margin`, the same signal with exp,
    does not change; for such methods, compare both signals.

    Args:
      logits: ``[..., C]``, finite.
      labels: ``[...]`` integers in 0..C-1.
      temperature: T, positive.
      margin: m, subtracted from the true class's ``u_y``.
      order: number of terms of the series, at least 2.

    Returns:
      ``[...]``, any real for even orders; higher = more likely member.

    Raises:
      InputError: the same cases as :func:`softmax_confidence`; an order below 2.

    >>> print(taylor_softmax(jnp.array([2.0, 1.0, -1.0]), 0).round(4))
    0.3985
    """
    _check_temperature(temperature)
    if order < 2:
        raise InputError(
            f"order is {order}: the series needs at least 2 terms to depend on the"
            " logits"
        )
    logits, hot = _read(logits, labels)
    scaled = logits / temperature
    shifted = jnp.where(hot, scaled - margin, scaled)
    series = jnp.ones_like(shifted)
    # Horner's scheme: 1 + u/1 (1 + u/2 (1 + u/3 ...)).
    for power in range(order - 1, 0, -1):
        series = 1 + shifted / power * series
    return _pick(series, hot) / series.sum(-1)


def taylor(logits: ArrayLike, labels: ArrayLike, *, order: int = 4) -> Array:
    """Return the plain Taylor softmax, with temperature 1 and without a margin.

    Args:
      logits: ``[..., C]``, finite.
      labels: ``[...]`` integers in 0..C-1.
      order: number of terms of the series, at least 2.

    Returns:
      ``[...]``, any real for even orders; higher = more likely member.

    Raises:
      InputError: the same cases as :func:`taylor_softmax`.
    """
    return taylor_softmax(logits, labels, temperature=1.0, margin=0.0, order=order)


def loss_signal(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Return the cross-entropy ``-log p_y`` in nats, **lower** for members.

    The loss is computed from the log-odds as ``log(1 + exp(-phi))``, so losses far
    below the float32 resolution at 1 keep their order instead of all becoming 0.

    Args:
      logits: ``[..., C]``, finite.
      labels: ``[...]`` integers in 0..C-1.

    Returns:
      ``[...]``, at least 0.

    Raises:
      InputError: the same cases as :func:`logit_margin`.
    """
    return jax.nn.softplus(-logit_margin(logits, labels))


def correctness(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Return 1 where the largest logit is that of the true class, and 0 elsewhere.

    Args:
      logits: ``[..., C]``, finite; the first of several equal largest logits counts.
      labels: ``[...]`` integers in 0..C-1.

    Returns:
      ``[...]`` float, 0 or 1; higher = more likely member. NaN where a logit is NaN.

    Raises:
      InputError: the same cases as :func:`logit_margin`.
    """
    logits, hot = _read(logits, labels)
    is_nan = jnp.isnan(logits).any(-1)
    return jnp.where(is_nan, jnp.nan, _pick(_top(logits).astype(logits.dtype), hot))


def entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Return the entropy ``-sum_j p_j log p_j`` in nats, **lower** for members.

    Args:
      logits: ``[..., C]``, finite.
      labels: ``[...]`` integers in 0..C-1; checked, but the entropy does not depend on
        them.

    Returns:
      ``[...]`` in [0, log C].

    Raises:
      InputError: the same cases as :func:`logit_margin`.
    """
    logits, hot = _read(logits, labels)
    top = _top(logits)
    # For a nearly certain class, log p = z - logsumexp(z) loses its digits, so it is
    # computed from the log-odds.
    sure = -jax.nn.softplus(-_margin(logits, top))[..., None]
    log_probs = jnp.where(top, sure, jax.nn.log_softmax(logits, axis=-1))
    value = -(jnp.exp(log_probs) * log_probs).sum(-1)
    return jnp.where(hot.any(-1), value, jnp.nan)


def modified_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Return the modified entropy in nats, **lower** for members.

    ``-(1 - p_y) log p_y - sum_{j != y} p_j log(1 - p_j)`` (Song and Mittal 2021,
    "Systematic Evaluation of Privacy Risks of Machine Learning Models") is near 0 for a
    confidently correct prediction and large for a confidently wrong one. Some widely
    used implementations have ``log p_j`` in the second sum or overwrite whole columns
    of it; this function follows the paper. ``1 - p`` is computed from log-odds, so a
    confidently wrong prediction gives a large finite value, not infinity.

    Args:
      logits: ``[..., C]``, finite.
      labels: ``[...]`` integers in 0..C-1.

    Returns:
      ``[...]``, at least 0, finite for finite logits.

    Raises:
      InputError: the same cases as :func:`logit_margin`.
    """
    logits, hot = _read(logits, labels)
    top = _top(logits)
    phi = _margin(logits, hot)
    phi_top = _margin(logits, top)
    probs = jax.nn.softmax(logits, axis=-1)
    # log1p(-p) loses digits for p above 1/2, which only the top class can have, so its
    # term is computed from its log-odds.
    others = -jnp.log1p(-jnp.where(top, 0, probs))
    surprise = jnp.where(top, jax.nn.softplus(phi_top)[..., None], others)
    wrong = jnp.where(hot, 0, probs * surprise).sum(-1)
    return jax.nn.sigmoid(-phi) * jax.nn.softplus(-phi) + wrong


def _top(logits: Array) -> Array:
    """Return ``[..., C]`` bool that marks the (first) largest logit."""
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return logits.argmax(-1)[..., None].astype(jnp.int32) == classes


def _negated(quantity: SignalFn) -> SignalFn:
    """Return the membership score of a quantity that is lower for members."""

    def score(logits: ArrayLike, labels: ArrayLike, **options: float) -> Array:
        return -quantity(logits, labels, **options)

    return score


SIGNALS: dict[str, SignalFn] = {
    "taylor_softmax": taylor_softmax,
    "softmax_confidence": softmax_confidence,
    "soft_margin": soft_margin,
    "taylor": taylor,
    "logit_margin": logit_margin,
    "correctness": correctness,
    "negative_cross_entropy": _negated(loss_signal),
    "negative_entropy": _negated(entropy),
    "negative_modified_entropy": _negated(modified_entropy),
}
"""Membership scores by name, ``(logits, labels) -> [...]``, higher for members."""


def model_signals(
    signal: str | SignalFn, logits: Iterable[ArrayLike], labels: ArrayLike
) -> np.ndarray:
    """Return a signal of many models, with one model's logits in memory at a time.

    Args:
      signal: function ``(logits [N, C], labels [N]) -> [N]``, its name in
        :data:`SIGNALS`, ``package.module:function``, or an entry point of the group
        ``unlearn_jax.signals``.
      logits: ``[N, C]`` logits of each model, at least one model. A generator works,
        but needs up to 50% more memory for the result, since the number of models is
        not known in advance.
      labels: ``[N]`` integers in 0..C-1.

    Returns:
      ``[M, N]``, in the order of the models.

    Raises:
      InputError: an unknown signal, no model, a signal that raises or does not return
        one number per sample, or models whose signals differ in shape.

    >>> model_signals("correctness", iter([[[2.0, 1.0]], [[0.0, 1.0]]]), [0])
    array([[1.],
           [0.]], dtype=float32)
    """
    if not isinstance(signal, str):
        function = signal
    elif signal in SIGNALS:
        function = SIGNALS[signal]
    elif ":" in signal or signal in extensions.names("signals"):
        function = extensions.find("signals", signal)
    else:
        raise InputError(f"unknown signal {signal!r}: choose {', '.join(SIGNALS)}")

    # Rows go directly into the result: a list of rows and its stack would need twice
    # the memory.
    values = np.empty((0,))
    count = 0
    for model_logits in logits:
        warn_of_probabilities(np.asarray(model_logits))
        model_logits = jnp.asarray(model_logits)
        try:
            row = np.asarray(function(model_logits, labels))
        except InputError:
            raise
        except Exception as error:
            # the function may be a user's, and raise any type
            raise InputError(f"signal {signal!r} fails: {first_line(error)}") from error
        if row.shape != model_logits.shape[:-1]:
            raise InputError(
                f"signal {signal!r} gives shape {row.shape} for logits of shape"
                f" {model_logits.shape}: return one number per sample"
            )
        if count == 0:
            num_models = len(logits) if isinstance(logits, Sized) else 1
            values = np.empty((num_models, *row.shape), row.dtype)
        if row.shape != values.shape[1:] or row.dtype != values.dtype:
            raise InputError(
                f"signal {signal!r} gives {values.dtype} {values.shape[1:]} for one"
                f" model and {row.dtype} {row.shape} for another: pass the logits of"
                " the same samples of every model"
            )
        if count == len(values):
            room = np.empty((count // 2 + 1, *row.shape), row.dtype)
            values = np.concatenate([values, room])
        values[count] = row
        count += 1
    if count == 0:
        raise InputError("logits has no models: pass those of at least one model")
    return values if count == len(values) else values[:count].copy()
