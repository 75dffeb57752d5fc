"""Everything that a run computes, at the smallest size, in a process of its own.

``python tests/bits.py OUT.npz`` stores the arrays; ``--side 32 --batch 128 --width 64``
makes the products large enough that a backend might divide them over threads.
``python tests/bits.py --compare ONE.npz OTHER.npz ...`` prints, part by part, whether
the bits are the same, and the largest difference relative to the largest value.
"""

import argparse
import sys

import numpy as np

PARTS = ("fit", "loop", "map", "pmap", "vmap", "split", "attack", "method", "audit")


def compute(side=4, batch=16, width=4):
    """``{part: flat array}``: a network trained in every way there is, attacked,
    unlearned and audited.

    Args:
      side: height and width of the images.
      batch: samples in a step, a quarter of the data.
      width: channels of the network.
    """
    import jax
    import jax.numpy as jnp

    from unlearn_jax import audit, data, methods, models, replicas, train
    from unlearn_jax.attacks import adversarial_set
    from unlearn_jax.types import Dataset

    rng = np.random.default_rng(0)
    labels = (np.arange(4 * batch) % 3).astype(np.int32)
    images = np.clip(
        rng.uniform(0.2, 0.8, (3, side, side, 3))[labels]
        + rng.normal(0, 0.2, (4 * batch, side, side, 3)),
        0,
        1,
    )
    pool = Dataset(images.astype(np.float32), labels)
    model = models.build(
        "cnn", (side, side, 3), 3, widths=(width, 2 * width), batch_norm=True
    )
    recipe = train.Recipe(2, batch, train.sgd(0.05))
    member = data.membership_design(4, len(labels), seed=0)
    keys = lambda: jax.random.split(jax.random.key(0), 4)
    found = {
        "fit": (
            train.fit(keys()[0], model, pool, member[0], recipe, epochs_per_call=2)[
                0
            ].variables
        )
    }
    devices = len(jax.local_devices())
    for part, form, count in (
        ("loop", "loop", 1),
        ("map", "map", 1),
        ("pmap", "map", min(devices, 4)),
        ("vmap", "vmap", 1),
        ("split", "split", devices),
    ):
        how = replicas.mapper(form, num_models=4, devices=count)
        found[part] = replicas.fit_many(
            keys(), model, pool, member, recipe, mapper=how, epochs_per_call=2
        )[0].variables
    bank, one = found["map"], found["fit"]
    found["attack"] = jax.jit(
        lambda v: adversarial_set(
            model.apply,
            v,
            pool.images[:batch],
            jnp.asarray(labels[:batch]),
            num_steps=5,
        )
    )(one)
    problem = methods.make_problem(
        model, one, pool, np.arange(4 * batch) < batch, found["attack"]
    )
    found["method"] = jax.jit(methods.AMUN(num_epochs=1, batch_size=batch))(
        jax.random.key(1), problem
    )[0]
    logits = replicas.predict_many(
        model.apply,
        bank,
        pool.images,
        mapper=replicas.mapper("map", num_models=4, devices=1),
    )
    signal = np.asarray(audit.taylor_softmax(logits, labels))
    scores = audit.rmia(signal[0], signal, member)
    interval = audit.auc_interval(scores, member[0], num_replicates=50)
    lira = audit.lira(signal[0], signal, member, variance="fixed")
    found["audit"] = [
        scores,
        lira,
        audit.klom(signal[:2], signal[2:]),
        np.array(interval),
    ]
    return {
        part: np.concatenate(
            [np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)]
        )
        for part, tree in found.items()
    }


def compare(first, second):
    """``{part: difference}``: 0 for the same bits, else the largest one over the
    largest value.
    """
    return {
        part: (
            0.0
            if first[part].tobytes() == second[part].tobytes()
            else float(
                np.abs(first[part] - second[part]).max() / np.abs(first[part]).max()
            )
        )
        for part in PARTS
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="where to, or what to compare")
    parser.add_argument("--compare", action="store_true")
    for name, value in (("side", 4), ("batch", 16), ("width", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    if options.compare:
        base, *others = (dict(np.load(file)) for file in options.files)
        for file, other in zip(options.files[1:], others, strict=True):
            said = (
                f"{part} {gap:.1e}" if gap else f"{part} same"
                for part, gap in compare(base, other).items()
            )
            print(f"{file}: {', '.join(said)}")
        sys.exit()
    np.savez(options.files[0], **compute(options.side, options.batch, options.width))
