"""Studies of federated unlearning: images, and segmentation of shapes."""
