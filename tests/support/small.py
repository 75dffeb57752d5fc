"""Small designs and models that several tests use."""


def half_design(rng, models, samples):
    """``[M, N]`` bool, each sample in exactly half of the models."""
    return rng.random((models, samples)).argsort(0) < models // 2


def linear(weights, images):
    """Logits ``[N, C]`` of a linear model with weights ``[pixels, C]``."""
    return images.reshape(len(images), -1) @ weights
