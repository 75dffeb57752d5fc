"""Studies of federated unlearning: digits, and segmentation of shapes."""
