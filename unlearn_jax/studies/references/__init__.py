"""A study of ResNet-18 reference models on an accelerator."""
