"""The synthetic world and the pretraining of the bundled model."""
