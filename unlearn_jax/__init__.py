"""Reliable machine unlearning in JAX: make an image classifier forget, and prove how well it forgot.

The modules are the namespace; data flows one way through them:

    data -> models -> losses, attacks, audit -> train -> replicas -> methods -> pipeline
    -> cli

Importing the package imports neither TensorFlow nor torch.
"""

__version__ = "0.1.0"
