"""Int8 federated learning on handwritten digits, as a Flower App."""
