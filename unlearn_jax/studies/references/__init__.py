"""A study of reference models of a ResNet-18 on an accelerator."""
